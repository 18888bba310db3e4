"""The settings of the notebooks that a study runs once, and the registry of these notebooks."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, create_model, model_validator

from qtl_utils.study.config import Name, Rate, Section, UserPath
from qtl_utils.study.notebook import declared_parameters
from qtl_utils.study.paths import PROJECT, user_path

TOLD = ("study", "results_dir", "threads", "data", "backbone_settings")  # parameters that are no settings
Sizes = Annotated[list[Annotated[int, Field(ge=1, le=30)]], Field(min_length=1)]
Strengths = Annotated[list[Annotated[float, Field(ge=0, le=0.75)]], Field(min_length=1)]


class GradientsConfig(Section):
    """What 03_gradient_diagnostics looks at: one model in training, then its circuit alone."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None  # likewise
    variants: list[str] = Field(["A", "A-joint", "B", "C"], min_length=1)
    n_qubits: int = Field(4, ge=1, le=24)
    depth: int = Field(6, ge=1, le=1000)
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(8, ge=2)
    lr_classical: Rate = 0.01
    lr_quantum: Rate = 0.01
    lr_backbone: Rate = 0.001
    method_qubits: int = Field(3, ge=1, le=8)  # the methods are compared on a smaller circuit
    method_depth: int = Field(2, ge=1, le=20)  # of that circuit
    method_batch: int = Field(2, ge=1, le=64)  # samples
    variance_ansatze: list[str] = Field(
        ["mari2019", "separable", "identity_blocks"], min_length=1
    )  # whose gradients are drawn at random angles
    variance_qubits: Sizes = [2, 4, 6, 8, 10, 12]  # sizes of these circuits
    variance_depths: Sizes = [1, 5, 20]  # layers of these circuits
    variance_draws: int = Field(200, ge=10, le=10_000)  # random angles of each size
    shots: list[Annotated[int, Field(ge=1)]] = Field(
        [100, 1000, 10_000], min_length=1
    )  # measurements per expectation value
    shot_repeats: int = Field(20, ge=2)  # of every count of shots
    noise: Strengths = [0.0, 0.01, 0.03, 0.1]  # depolarising strength, 0 first
    seed: int = Field(0, ge=0)  # of what is drawn here


class SimulatorsConfig(Section):
    """What 04_simulator_algorithms compares."""

    n_qubits: int = Field(3, ge=1, le=8)
    depth: int = Field(2, ge=1, le=20)
    batch: int = Field(2, ge=1, le=64)  # samples per step
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    repeats: int = Field(5, ge=1)  # medians are taken over them
    scaling_qubits: Sizes = [2, 4, 6, 8, 10, 12]  # sizes that are timed
    scaling_depths: Sizes = [1, 2, 4, 8, 16]  # layers that are timed
    scaling_batches: Sizes = [1, 2, 4, 8, 16]  # batches that are timed
    scaling_base: dict[str, int] = {"qubits": 4, "depth": 2, "batch": 2}  # what is not varied
    most_seconds: float = Field(0.2, gt=0)  # a step beyond ends a scaling series
    seconds_budget: float = Field(1.0, gt=0)  # of a step, for the largest circuit
    memory_budget: float = Field(4e9, gt=0)  # bytes
    networks: list[str] = Field(["resnet18", "tiny_vit"], min_length=1)  # whose whole step is timed
    image_size: int = Field(32, ge=8, le=1024)
    network_batch: int = Field(4, ge=2)  # images per step
    network_qubits: int = Field(4, ge=1, le=24)  # of the circuit behind them
    network_depth: int = Field(6, ge=1, le=1000)  # of the circuit behind them


class TroubleshootingConfig(Section):
    """What the notebooks 05_troubleshooting_* look at."""

    dataset: Name | None = None  # of the study; left out: that of the first run with images and a ResNet
    backbone: Name | None = None  # likewise
    first_seed: int = Field(0, ge=0)
    seeds: int = Field(5, ge=2)  # of every comparison of a broken with a mended model
    steps: int = Field(30, ge=3)  # of training in these comparisons
    published_images: int = Field(80, ge=16)  # for the model of 2019
    published_epochs: int = Field(4, ge=3)  # of the model of 2019
    head_seeds: int = Field(20, ge=2)  # trainings of a head for the notebook on evaluation
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: Rate = 0.01  # of all parameters
    confusion: list[str] = []  # faults and healthy models the doctor is tried on; empty: all
    strangers: list[Literal["open", "sealed", "second"]] = ["open", "sealed", "second"]  # models of others, to try


Schedule = Literal["concurrent", "alternating", "two-stage"]
Spread = Annotated[float, Field(ge=0)]
Factors = Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1)]


class AttributionConfig(Section):
    """What 06_who_learned takes apart: A on frozen features of one data set, beside its controls."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None  # likewise
    n_splits: int | None = Field(None, ge=1, le=1000)  # in place of the data set's own number
    first_seed: int = Field(0, ge=0)
    seeds: int = Field(24, ge=1, le=100_000)  # first_seed, first_seed + 1 ...; seed s uses split s mod n_splits
    curve_seeds: int = Field(12, ge=1, le=100_000)  # of what is drawn as a curve: rates, data, sizes
    variants: list[str] = ["A-zero", "A-frozen", "A-separable", "A-none", "C-matched", "C", "A-surrogate"]
    scalings: list[Literal["none", "standard"]] = Field(
        ["none", "standard"], min_length=1
    )  # of features, each a ladder of its own
    n_qubits: int = Field(4, ge=1, le=24)
    depth: int = Field(6, ge=1, le=1000)
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    angle_init: float = Field(0.01, ge=0)  # radians
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr_classical: Rate = 0.01
    lr_quantum: Rate = 0.01
    lr_backbone: Rate = 0.001
    lr_step: int = Field(10, ge=1)
    lr_gamma: float = Field(0.1, gt=0, le=1)
    rate_factors: Factors = [0.1, 1.0, 10.0, 100.0]  # of the angles' rate
    classical_factors: Factors = [0.1, 0.3, 1.0, 3.0]  # as many, for heads without angles; 10 lets rounding decide
    rate_variants: list[str] = Field(["A", "C", "C-matched"], min_length=2)  # whose learning rates are varied
    schedules: Annotated[list[Schedule], Field(min_length=1)] = [
        "concurrent",
        "alternating",
        "two-stage",
    ]  # who learns when
    joint_seeds: int = Field(0, ge=0)  # of networks whose backbone learns too; 0 leaves them out
    fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.1, 0.25, 0.5, 1.0], min_length=1
    )  # shares of the training images
    fraction_variants: list[str] = Field(
        ["A", "C", "C-matched", "A-surrogate"], min_length=2
    )  # that learn from these shares
    size_qubits: Sizes = [2, 4, 6, 8]  # sizes of A
    size_depths: Sizes = [1, 3, 6, 12]  # layers of A
    noise: Annotated[list[Spread], Field(min_length=1)] = [0.0, 0.25, 0.5, 1.0, 2.0]  # deviations of each feature
    shots: list[Annotated[int, Field(ge=0)]] = Field([0, 10, 100, 1000], min_length=1)  # 0: exact
    control_samples: int = Field(600, ge=50)  # points of each made-up task
    control_splits: int = Field(8, ge=2)  # splits of each made-up task
    geometry_points: int = Field(0, ge=0)  # samples that the geometry is averaged over; 0 leaves it out
    seed: int = Field(0, ge=0)  # of what is drawn here


PlaneTask = Literal["spirals 1.52 turns", "spirals 2.0 turns", "square", "moons"]


class PublishedConfig(Section):
    """What 08_published_results runs again; the settings that were published are not varied."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None  # likewise
    plane_tasks: list[PlaneTask] = Field(list(get_args(PlaneTask)), min_length=1)  # 2-D tasks of 2019
    first_seed: int = Field(0, ge=0)
    plane_seeds: int = Field(20, ge=2)  # of the 2-D tasks; seed 0, the published run, is always one of them
    variants: list[str] = Field(["A", "C", "C-matched-relu", "C-wide"], min_length=1)
    seeds: int = Field(24, ge=2)
    epochs: int = Field(30, ge=1)
    lr: Rate = 4e-3  # of heads, for the digits; 0.0004 was published for ants and bees
    tutorial_seeds: int = Field(3, ge=1)  # of the tutorial's training
    tutorial_epochs: int = Field(25, ge=1)  # of the tutorial's training
    batchnorm_splits: int = Field(4, ge=2)  # of BatchNorm in both modes
    batchnorm_epochs: int = Field(10, ge=1)  # of BatchNorm in both modes
    cifar_dir: UserPath | None = None  # the folder that holds cifar-10-batches-py
    cifar_size: int = Field(224, ge=8, le=1024)  # pixels
    cifar_images: list[Annotated[int, Field(ge=2)]] = Field(
        [10_000, 2_000], min_length=2, max_length=2
    )  # trained on, tested on
    checkpoint: UserPath | None = "download"  # or a .pt file

    @model_validator(mode="after")
    def _check(self):
        missing = {"A", "C"} - set(self.variants)
        if missing:
            raise ValueError(
                f"variants: {' and '.join(sorted(missing))} missing; the published numbers are A's and C's"
            )
        if self.checkpoint not in (None, "download") and not user_path(self.checkpoint).is_file():
            raise ValueError(f"checkpoint: there is no file '{self.checkpoint}'; give a .pt file, download or null")
        if self.cifar_dir is not None and not user_path(self.cifar_dir).is_dir():
            raise ValueError(f"cifar_dir: there is no folder '{self.cifar_dir}'; give the one with cifar-10-batches-py")
        return self


class CalibrationConfig(Section):
    """How many studies 09_can_we_see_it simulates."""

    studies: int = Field(200, ge=20, le=100_000)  # of heads that have a closed form, for each design
    real_studies: int = Field(0, ge=0, le=10_000)  # of the heads A and C; 0 leaves them out
    real_splits: int = Field(30, ge=5, le=1000)  # of those studies
    real_seeds: int = Field(2, ge=1, le=100)  # per split
    lr_classical: Rate = 0.001
    lr_quantum: Rate = 0.01
    seed: int = Field(0, ge=0)  # of what is drawn here


class RepairTask(Section):
    """One data set on which 10_repair climbs from the published model to a better one."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None  # likewise
    rates: list[Rate] = Field([0.0004, 0.002, 0.01], min_length=2)  # of all parameters, for validation to choose from
    lr_quantum: Rate = 0.02  # of the angles, once they may travel
    seeds: int = Field(24, ge=5, le=1000)  # one on each split
    epochs: int = Field(30, ge=1)
    lr_step: int = Field(10, ge=1)
    joint_seeds: int = Field(0, ge=0)  # of networks whose backbone learns too; 0 leaves them out


class RepairConfig(Section):
    """What 10_repair mends."""

    tasks: list[RepairTask] = Field([RepairTask()], min_length=1)  # data sets that are mended one by one
    final: float = Field(0.25, gt=0, lt=0.9)  # share of the samples that is sealed, and opened once
    n_qubits: int = Field(4, ge=1, le=10)
    depth: int = Field(6, ge=1, le=30)
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    first_seed: int = Field(0, ge=0)
    batch_size: int = Field(4, ge=1)
    lr: Rate = 4e-4  # of the published model
    joint_epochs: int = Field(12, ge=1)  # of networks whose backbone learns too
    joint_batch_size: int = Field(32, ge=2)  # of these networks
    joint_lr: Rate = 0.01  # of head and circuit
    joint_lr_backbone: Rate = 0.001  # of the backbone


Count = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(gt=0, le=1)]


class NoiseConfig(Section):
    """Under which shots, noise and devices 11_noise_and_devices looks at A, and trains it."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None  # of the study; left out: that of its first run with a backbone
    shots: list[Count] = Field([10, 30, 100, 1000, 10_000], min_length=1)  # a circuit, that trained heads are seen with
    strengths: list[Strength] = Field(
        [0.001, 0.003, 0.01, 0.03, 0.1], min_length=1
    )  # of depolarisation after each gate
    devices: list[str] = Field(
        ["yorktown", "manila", "brooklyn", "sherbrooke", "torino", "fez"], min_length=1
    )  # whose calibrations trained heads are seen through; `./run_all.sh names` lists them
    train_shots: list[Count] = []  # a circuit, that heads are trained with
    train_strengths: list[Strength] = [0.03]  # of depolarisation that heads are trained under
    train_devices: list[str] = ["yorktown"]  # whose noise heads are trained under
    mitigation_shots: int = Field(1000, ge=10)  # a circuit
    calibration_shots: int = Field(10_000, ge=100)  # of known states, once a device
    gradient_shots: list[Count] = Field([10, 100, 1000, 10_000], min_length=1)  # a circuit of a sampled gradient
    gradient_heads: int = Field(8, ge=2)  # untrained heads whose gradients are sampled
    gradient_repeats: int = Field(4, ge=2)  # of every sampled gradient
    n_qubits: int = Field(4, ge=1, le=6)  # of the circuit
    depth: int = Field(6, ge=1, le=30)  # layers of the circuit
    ansatz: str = "mari2019"  # of the circuit: a key of ANSATZE
    encoding: str = "tanh"  # of features as angles: a key of ENCODINGS
    n_splits: int | None = Field(None, ge=1, le=1000)  # in place of the data set's own number
    first_seed: int = Field(0, ge=0)  # first_seed, first_seed + 1 ...
    seeds: int = Field(20, ge=2, le=1000)  # how many; seed s uses split s mod n_splits
    epochs: int = Field(30, ge=1)  # of every training
    batch_size: int = Field(4, ge=1)  # samples of a step
    lr: Rate = 4e-4  # of the published model
    repaired_lr: Rate = 1e-3  # of the repaired one, on scaled features
    repaired_lr_quantum: Rate = 0.01  # of its angles
    lr_step: int = Field(10, ge=1)  # epochs between two decays of the rates


# ---- the registry ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notebook:
    """A row of NOTEBOOKS: a notebook that a study runs once. A new one is a row here and a file in notebooks/.

    `section` is the key of the study file that holds its settings, and `settings` what may be set there: where that is
    None, the parameters that the notebook declares. null in a study leaves the section out. `writes` are files below
    the study's folder that are there whenever it succeeded.
    """

    file: str  # of its source, without .ipynb
    section: str = ""  # "": it has no settings
    settings: type[Section] | None = None
    writes: tuple[str, ...] = ()
    looks_at: Literal["nothing", "features", "images", "resnet", "tasks", "runs"] = (
        "nothing"  # what of the study it works with
    )
    fields: tuple[str, ...] | None = None  # the settings it is told, where notebooks share a section; None: all
    on: bool = True  # whether a study that does not name the section has it
    alone: bool = False  # it measures times: nothing runs beside it
    after: tuple[str, ...] = ()  # notebooks whose tables it shows, if they succeeded
    tables: str = ""  # how its tables begin that describe one machine, and so are not compared
    minutes: float = 0.5  # about how long it takes in the default study: longer ones start earlier


_STARTED = ("first_seed", "seeds", "steps")
_LENT = ("dataset", "backbone")
NOTEBOOKS: list[Notebook] = [
    Notebook(
        "03_gradient_diagnostics", "gradients", GradientsConfig, ("tables/gradient_methods.csv",), looks_at="images"
    ),
    Notebook(
        "04_simulator_algorithms",
        "simulators",
        SimulatorsConfig,
        ("tables/simulator_matrix.csv",),
        alone=True,
        tables="simulator_",
    ),
    Notebook(
        "05_troubleshooting_gradients",
        "troubleshooting",
        TroubleshootingConfig,
        ("tables/doctor_gradients.csv",),
        looks_at="resnet",
        fields=(*_LENT, *_STARTED, "published_images", "published_epochs"),
        tables="doctor_",
        minutes=1.5,
    ),
    Notebook(
        "05_troubleshooting_simulators",
        "troubleshooting",
        TroubleshootingConfig,
        ("tables/doctor_simulators.csv",),
        fields=_STARTED,
        tables="doctor_",
        minutes=1.5,
    ),
    Notebook(
        "05_troubleshooting_optimisation",
        "troubleshooting",
        TroubleshootingConfig,
        ("tables/doctor_optimisation.csv",),
        fields=_STARTED,
        tables="doctor_",
        minutes=1,
    ),
    Notebook(
        "05_troubleshooting_evaluation",
        "troubleshooting",
        TroubleshootingConfig,
        ("tables/doctor_evaluation.csv",),
        looks_at="resnet",
        fields=(*_LENT, "first_seed", "head_seeds", "epochs", "batch_size", "lr", "confusion", "strangers"),
        tables="doctor_",
        minutes=3,
    ),
    Notebook(
        "05_troubleshooting_models",
        "troubleshooting",
        TroubleshootingConfig,
        ("tables/doctor_study.csv",),
        looks_at="runs",
        fields=(),
        tables="doctor_",
    ),
    Notebook(
        "06_who_learned",
        "attribution",
        AttributionConfig,
        ("tables/who_learned.json",),
        looks_at="features",
        minutes=1.5,
    ),
    Notebook("07_results", writes=("tables/answer.json",), looks_at="runs", after=("05_troubleshooting_models",)),
    Notebook(
        "08_published_results",
        "published",
        PublishedConfig,
        ("tables/published.csv",),
        looks_at="features",
        on=False,
    ),
    Notebook("09_can_we_see_it", "calibration", CalibrationConfig, ("tables/calibration.csv",), on=False, minutes=1.5),
    Notebook("10_repair", "repair", RepairConfig, ("tables/repair.json",), looks_at="tasks", on=False, minutes=3),
    Notebook(
        "11_noise_and_devices",
        "noise",
        NoiseConfig,
        ("tables/noise.json",),
        looks_at="features",
        on=False,
        minutes=1,
    ),
]


def sections() -> dict[str, tuple[type[Section], bool]]:
    """Section of a study file -> what may be set there, and whether a study that does not name it has it."""
    found = {row.section: (row.settings or declared(row.file), row.on) for row in NOTEBOOKS if row.section}
    return found


def declared(file: str) -> type[Section]:
    """The settings that a notebook declares in its parameters cell, each of the type of its default.

    What every notebook is told (study, results_dir, threads) is none of them.
    """
    given = declared_parameters(PROJECT / "notebooks" / f"{file}.ipynb")
    fields = {name: (type(value), value) for name, value in given.items() if name not in TOLD}
    return create_model(f"Settings of {file}", __base__=Section, **fields)
