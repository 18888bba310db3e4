"""What a study file may say: pydantic models whose errors name the file, the key and what was expected."""

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from qtl_utils.study import shipped_files
from qtl_utils.study.paths import PROJECT, user_path
from qtl_utils.study.strict_yaml import YAMLError, read_file, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]  # file names are made of it
Rate = Annotated[float, Field(gt=0, le=10)]


LARGEST_NUMBER = 1_000_000  # of epochs, seeds, samples in a batch ...: beyond, memory or patience ends


def _share(value: Any) -> Any:
    if isinstance(value, int | float) and (0 < value < 1 or (isinstance(value, int) and value > 0)):
        return value
    raise ValueError("expected a fraction such as 0.6 or a count of images such as 60")


Share = Annotated[int | float, BeforeValidator(_share)]


def _settled(path: str) -> str:
    """`path` as notebooks find it too: one beside the user, not in the project, becomes absolute."""
    try:
        if not path.isprintable():
            raise ValueError
        found = user_path(path)
        return str(found) if found.exists() and not (PROJECT / path).exists() else path
    except (OSError, ValueError):  # too long, or with characters that no name may hold
        raise ValueError(f"{path[:60]!r} cannot be a path; give an existing file or folder") from None


UserPath = Annotated[str, AfterValidator(_settled)]


class Section(BaseModel):
    """A part of a study file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{key}: {unknown_name('key', str(key), cls.model_fields)}")
            if isinstance(value, bool):  # pydantic would read 'yes' as the number 1
                raise ValueError(f"{key}: expected a number or text, got {json.dumps(value)}")
            numbers = [value] if cls.model_fields[key].annotation is not float else []
            for number in value if isinstance(value, list) else numbers:
                if isinstance(number, int) and number > LARGEST_NUMBER:
                    raise ValueError(f"{key}: expected at most {LARGEST_NUMBER}, got {str(number)[:20]}")
        return values


class DataConfig(Section):
    """Which samples, and how they are divided."""

    dataset: str = "digits"  # a key of qtl_utils.data.datasets.DATASETS
    data_dir: UserPath | None = None  # a folder of images, where the data set takes one
    image_size: int = Field(32, ge=8, le=1024)  # pixels, after resizing and centre crop
    options: dict[str, Any] = {}  # passed to the data set, e.g. {turns: 2.0}
    protocol: Literal["repeated", "as_published", "fixed"] = "repeated"
    n_splits: int = Field(1, ge=1, le=1000)
    split_seed: int = Field(0, ge=0)
    train: Share = 0.6  # a fraction of the images, or a count
    validation: Share = 0.2
    test: Share = 0.2

    @model_validator(mode="after")
    def _check(self):
        if self.data_dir is not None and not user_path(self.data_dir).is_dir():
            raise ValueError(f"data_dir: there is no folder '{self.data_dir}'; give the folder of your images")
        if self.protocol != "repeated" and self.n_splits != 1:
            raise ValueError(f"n_splits: protocol '{self.protocol}' has one partition; set n_splits: 1")
        shares = [s for s in (self.train, self.validation, self.test) if isinstance(s, float)]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"train + validation + test is {sum(shares):g}; fractions may sum to 1 at most")
        return self


class BackboneConfig(Section):
    """Which network makes the features, and where its weights come from."""

    model: str = "resnet18"  # a torchvision classifier, 'tiny_resnet', 'tiny_vit', or 'none' for 2-D points
    init: Literal["imagenet", "file", "source", "random", "shipped"] = "source"
    weights: UserPath | None = None  # .safetensors or .pth, for init: file
    source_dataset: str = "digits_source"  # what init: source is trained on
    source_epochs: int = Field(8, ge=1)
    source_lr: Rate = 1e-3
    seed: int = Field(0, ge=0)  # of the random weights and of the source training
    sources: int = Field(1, ge=1, le=1000)  # of init source or random: how many, seed, seed + 1 ...; splits take turns

    @property
    def own(self) -> bool:
        """Whether the study makes the weights itself, by a source training or a random draw."""
        return self.init in ("source", "random") and self.model != "none"

    @model_validator(mode="after")
    def _check(self):
        if self.sources > 1 and not self.own:
            raise ValueError(
                f"sources: init '{self.init}' has one set of weights; leave sources out, or set init: source"
            )
        if self.init == "file" and self.weights is None:
            raise ValueError("weights: init 'file' needs a .safetensors or .pth file; set weights: FILE")
        if self.init != "file" and self.weights is not None:
            raise ValueError(f"weights: init '{self.init}' reads no file; set init: file, or leave weights out")
        if self.weights is not None and not user_path(self.weights).is_file():
            raise ValueError(f"weights: there is no file '{self.weights}'; give a .safetensors or .pth file")
        return self


class LearningRates(Section):
    """One candidate of a learning-rate grid; what is left out keeps the run's own value."""

    lr_classical: Rate | None = None
    lr_quantum: Rate | None = None
    lr_backbone: Rate | None = None


class LrGrid(Section):
    """Candidates tried besides the run's own rates; equally long lists, so that no head is tuned harder."""

    classical: list[LearningRates] = []  # for variants without trainable angles
    quantum: list[LearningRates] = []  # for variants with a circuit

    @model_validator(mode="after")
    def _check(self):
        if len(self.classical) != len(self.quantum):
            raise ValueError(
                f"{len(self.classical)} classical and {len(self.quantum)} quantum candidates; "
                "give both lists the same length, so that every variant has the same tuning budget"
            )
        return self


class TrainConfig(Section):
    """How heads and networks are trained; the defaults are the 2019 ants/bees settings."""

    variants: list[str] = Field(["A", "C"], min_length=1)  # keys of qtl_utils.models.heads.VARIANTS
    first_seed: int = Field(0, ge=0)
    seeds: int = Field(20, ge=1, le=100_000)  # first_seed, first_seed + 1 ...; seed s uses split s mod n_splits
    n_qubits: int = Field(4, ge=1, le=24)
    depth: int = Field(6, ge=0, le=1000)
    ansatz: str = "mari2019"  # a key of qtl_utils.circuits.ansatze.ANSATZE
    encoding: str = "tanh"  # a key of qtl_utils.circuits.ansatze.ENCODINGS
    angle_init: float = Field(0.01, ge=0)  # standard deviation of the initial angles, radians
    feature_scaling: Literal["none", "standard"] = "none"  # 'standard' is fitted on the training images
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(4, ge=1)
    optimizer: Literal["adam", "adam-pl", "adam-pl07", "sgd"] = "adam"  # see train.make_optimizer
    momentum: float = Field(0.0, ge=0, lt=1)  # of sgd
    beta2: float = Field(0.999, gt=0, lt=1)
    reduction: Literal["mean", "sum"] = "mean"  # of the loss over a batch
    lr_classical: Rate = 4e-4
    lr_quantum: Rate = 4e-4
    lr_backbone: Rate = 4e-4
    lr_step: int = Field(10, ge=1)  # epochs between two decays
    lr_gamma: float = Field(0.1, gt=0, le=1)
    lr_schedule: Literal["after", "before"] = "after"  # 'before' an epoch: as published code does, a decay comes early
    settings: str = Field("2019", min_length=1, max_length=60)  # what results trained with the rates above are called
    lr_grid: LrGrid = LrGrid()
    start: Literal["default", "published-2d"] = "default"  # initial weights and data order
    backend: Literal["statevector", "default.qubit", "lightning.qubit"] = "statevector"  # who simulates the circuit
    dtype: Literal["auto", "float32", "float64"] = "auto"  # auto: heads on features float64, whole networks float32
    device: str = "cpu"  # 'cpu', 'auto' (an accelerator if there is one), 'cuda', 'mps'

    @model_validator(mode="after")
    def _check(self):
        repeated = sorted({v for v in self.variants if self.variants.count(v) > 1})
        if repeated:
            raise ValueError(f"variants: {', '.join(repeated)} is listed twice; name each variant once")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: optimizer '{self.optimizer}' has none; set optimizer: sgd, or leave it out")
        return self

    def precision(self, whole: bool) -> str:
        """What a head on features or a `whole` network is trained in: float64 where rounding is not to show."""
        return self.dtype if self.dtype != "auto" else "float32" if whole else "float64"

    @property
    def seed_range(self) -> range:
        """The seeds, in the order in which they are trained."""
        return range(self.first_seed, self.first_seed + self.seeds)


class RunConfig(TrainConfig):
    """One execution of 02_train_variant: a data set and a backbone of the study, and how to train."""

    dataset: Name
    backbone: Name


Sizes = Annotated[list[Annotated[int, Field(ge=1, le=30)]], Field(min_length=1)]
Strengths = Annotated[list[Annotated[float, Field(ge=0, le=0.75)]], Field(min_length=1)]


class GradientsConfig(Section):
    """What 03_gradient_diagnostics looks at: one model in training, then its circuit alone."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None
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
    method_depth: int = Field(2, ge=1, le=20)
    method_batch: int = Field(2, ge=1, le=64)
    variance_ansatze: list[str] = Field(["mari2019", "separable", "identity_blocks"], min_length=1)
    variance_qubits: Sizes = [2, 4, 6, 8, 10, 12]
    variance_depths: Sizes = [1, 5, 20]
    variance_draws: int = Field(200, ge=10, le=10_000)
    shots: list[Annotated[int, Field(ge=1)]] = Field([100, 1000, 10_000], min_length=1)
    shot_repeats: int = Field(20, ge=2)
    noise: Strengths = [0.0, 0.01, 0.03, 0.1]  # depolarising strength, 0 first
    seed: int = Field(0, ge=0)


class SimulatorsConfig(Section):
    """What 04_simulator_algorithms compares."""

    n_qubits: int = Field(3, ge=1, le=8)
    depth: int = Field(2, ge=1, le=20)
    batch: int = Field(2, ge=1, le=64)
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    repeats: int = Field(5, ge=1)  # medians are taken over them
    scaling_qubits: Sizes = [2, 4, 6, 8, 10, 12]
    scaling_depths: Sizes = [1, 2, 4, 8, 16]
    scaling_batches: Sizes = [1, 2, 4, 8, 16]
    scaling_base: dict[str, int] = {"qubits": 4, "depth": 2, "batch": 2}  # what is not varied
    most_seconds: float = Field(0.2, gt=0)  # a step beyond ends a scaling series
    seconds_budget: float = Field(1.0, gt=0)  # of a step, for the largest circuit
    memory_budget: float = Field(4e9, gt=0)  # bytes
    networks: list[str] = Field(["resnet18", "tiny_vit"], min_length=1)
    image_size: int = Field(32, ge=8, le=1024)
    network_batch: int = Field(4, ge=2)
    network_qubits: int = Field(4, ge=1, le=24)
    network_depth: int = Field(6, ge=1, le=1000)


class TroubleshootingConfig(Section):
    """What the notebooks 05_troubleshooting_* look at."""

    dataset: Name | None = None  # of the study; left out: that of the first run with images and a ResNet
    backbone: Name | None = None
    first_seed: int = Field(0, ge=0)
    seeds: int = Field(5, ge=2)  # of every comparison of a broken with a mended model
    steps: int = Field(30, ge=3)  # of training in these comparisons
    published_images: int = Field(80, ge=16)  # for the model of 2019
    published_epochs: int = Field(4, ge=3)
    head_seeds: int = Field(20, ge=2)  # trainings of a head for the notebook on evaluation
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: Rate = 0.01
    confusion: list[str] = []  # faults and healthy models the doctor is tried on; empty: all


TROUBLESHOOTING = {  # theme -> the fields that its notebook is told
    "gradients": ("dataset", "backbone", "first_seed", "seeds", "steps", "published_images", "published_epochs"),
    "simulators": ("first_seed", "seeds", "steps"),
    "optimisation": ("first_seed", "seeds", "steps"),
    "evaluation": ("dataset", "backbone", "first_seed", "head_seeds", "epochs", "batch_size", "lr", "confusion"),
}


Schedule = Literal["concurrent", "alternating", "two-stage"]
Spread = Annotated[float, Field(ge=0)]
Factors = Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1)]


class AttributionConfig(Section):
    """What 06_who_learned takes apart: A on frozen features of one data set, beside its controls."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None
    n_splits: int | None = Field(None, ge=1, le=1000)  # in place of the data set's own number
    first_seed: int = Field(0, ge=0)
    seeds: int = Field(24, ge=1, le=100_000)  # first_seed, first_seed + 1 ...; seed s uses split s mod n_splits
    curve_seeds: int = Field(12, ge=1, le=100_000)  # of what is drawn as a curve: rates, data, sizes
    variants: list[str] = ["A-zero", "A-frozen", "A-separable", "A-none", "C-matched", "C", "A-surrogate"]
    scalings: list[Literal["none", "standard"]] = Field(["none", "standard"], min_length=1)
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
    rate_factors: Factors = [0.1, 1.0, 10.0, 100.0]
    rate_variants: list[str] = Field(["A", "C", "C-matched"], min_length=2)
    schedules: Annotated[list[Schedule], Field(min_length=1)] = ["concurrent", "alternating", "two-stage"]
    joint_seeds: int = Field(0, ge=0)  # of networks whose backbone learns too; 0 leaves them out
    fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.1, 0.25, 0.5, 1.0], min_length=1)
    fraction_variants: list[str] = Field(["A", "C", "C-matched", "A-surrogate"], min_length=2)
    size_qubits: Sizes = [2, 4, 6, 8]
    size_depths: Sizes = [1, 3, 6, 12]
    noise: Annotated[list[Spread], Field(min_length=1)] = [0.0, 0.25, 0.5, 1.0, 2.0]  # deviations of each feature
    shots: list[Annotated[int, Field(ge=0)]] = Field([0, 10, 100, 1000], min_length=1)  # 0: exact
    control_samples: int = Field(600, ge=50)
    control_splits: int = Field(8, ge=2)
    geometry_points: int = Field(0, ge=0)  # samples that the geometry is averaged over; 0 leaves it out
    seed: int = Field(0, ge=0)


PlaneTask = Literal["spirals 1.52 turns", "spirals 2.0 turns", "square", "moons"]


class PublishedConfig(Section):
    """What 08_published_results runs again; the settings that were published are not varied."""

    dataset: Name | None = None  # of the study; left out: that of its first run with a backbone
    backbone: Name | None = None
    plane_tasks: list[PlaneTask] = Field(list(get_args(PlaneTask)), min_length=1)
    first_seed: int = Field(0, ge=0)
    plane_seeds: int = Field(20, ge=2)  # of the 2-D tasks; seed 0, the published run, is always one of them
    variants: list[str] = Field(["A", "C", "C-matched-relu", "C-wide"], min_length=1)
    seeds: int = Field(24, ge=2)
    epochs: int = Field(30, ge=1)
    lr: Rate = 4e-3  # of heads, for the digits; 0.0004 was published for ants and bees
    tutorial_seeds: int = Field(3, ge=1)
    tutorial_epochs: int = Field(25, ge=1)
    batchnorm_splits: int = Field(4, ge=2)
    batchnorm_epochs: int = Field(10, ge=1)
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


LENT = "lent"  # the name of a data set or backbone that a notebook needs and the study has not
LENT_DIGITS = DataConfig(dataset="digits", image_size=32, n_splits=5, train=100, validation=50, test=50)


class StudyConfig(Section):
    """One study file."""

    name: Name
    description: str = ""
    threads: int = Field(1, ge=1, le=256)  # of every job; the results depend on it, not on --cores
    seed: int = Field(0, ge=0, le=1_000_000)  # added to every other seed: the same study on another sample
    datasets: dict[Name, DataConfig] = Field(min_length=1)
    backbones: dict[Name, BackboneConfig] = Field(min_length=1)
    runs: dict[Name, RunConfig] = Field(min_length=1)
    gradients: GradientsConfig | None = GradientsConfig()  # null leaves the notebook out
    simulators: SimulatorsConfig | None = SimulatorsConfig()
    troubleshooting: TroubleshootingConfig | None = TroubleshootingConfig()
    attribution: AttributionConfig | None = AttributionConfig()
    published: PublishedConfig | None = None  # about the tasks of 2019: only in a study that asks for it

    @model_validator(mode="after")
    def _check(self):
        if self.name in ("reference", "interactive"):
            raise ValueError(f"name: results/{self.name}/ has another use; choose another name")
        for kind in ("datasets", "backbones", "runs"):
            names = [name.lower() for name in getattr(self, kind)]
            if len(set(names)) < len(names):
                raise ValueError(f"{kind}: two names differ in upper and lower case only; some disks mix them up")
        for run, settings in self.runs.items():
            for kind, known in (("dataset", self.datasets), ("backbone", self.backbones)):
                name = getattr(settings, kind)
                if name not in known:
                    raise ValueError(f"runs.{run}.{kind}: {unknown_name(kind, name, known)}")
            self._check_run(run, settings)
        for section in ("gradients", "attribution", "published"):
            for kind, known in (("dataset", self.datasets), ("backbone", self.backbones)):
                name = getattr(getattr(self, section), kind, None)
                if name is not None and name not in known:
                    raise ValueError(f"{section}.{kind}: {unknown_name(kind, name, known)}")
        self._check_attribution()
        if self.published and self.published_parameters()["backbone_settings"]["model"] == "none":
            raise ValueError("published.backbone: 2-D points have none; name a backbone and a dataset with images")
        return self

    def _check_attribution(self) -> None:
        if self.attribution is not None and self.attribution.n_splits is not None:
            dataset = self.attribution_parameters()["dataset"]
            if (protocol := self.datasets[dataset].protocol) != "repeated":
                raise ValueError(
                    f"attribution.n_splits: data set '{dataset}' has protocol '{protocol}' and so one partition; "
                    "leave n_splits out, or name another data set"
                )

    def _check_run(self, run: str, settings: RunConfig) -> None:
        data, backbone = self.datasets[settings.dataset], self.backbones[settings.backbone]
        if data.protocol == "as_published" and settings.lr_grid.classical:
            raise ValueError(
                f"runs.{run}.lr_grid: protocol 'as_published' has no validation set to choose rates on; "
                "leave the grid empty"
            )
        if backbone.init == "source" and backbone.source_dataset == data.dataset:
            raise ValueError(
                f"backbones.{settings.backbone}.source_dataset: '{data.dataset}' is also what run '{run}' learns; "
                "name other data to train the backbone on"
            )
        if reason := shipped_mismatch(data, backbone):
            raise ValueError(f"runs.{run}.backbone: {reason}")

    def backbones_of(self, dataset: str) -> dict[str, BackboneConfig]:
        """The backbones that some run uses on `dataset`, in the order of the file."""
        used = {run.backbone for run in self.runs.values() if run.dataset == dataset}
        return {name: backbone for name, backbone in self.backbones.items() if name in used}

    def files_of(self, dataset: str) -> list[str]:
        """The user's folders and files that the features of `dataset` are made from."""
        weights = [backbone.weights for backbone in self.backbones_of(dataset).values()]
        return [path for path in (self.datasets[dataset].data_dir, *weights) if path is not None]

    def dataset_parameters(self, dataset: str) -> dict[str, Any]:
        """What notebook 01 is told about `dataset`."""
        devices = [run.device for run in self.runs.values() if run.dataset == dataset]
        return {
            "dataset": dataset,
            "data": self._data(dataset),
            "backbones": {name: self._backbone(name) for name in self.backbones_of(dataset)},
            "threads": self.threads,
            "device": devices[0] if devices else "cpu",
        }

    def run_parameters(self, run: str) -> dict[str, Any]:
        """What notebook 02 is told about `run`: every field of its RunConfig, and what its names stand for."""
        settings = self.runs[run]
        return {
            "run": run,
            **settings.model_dump(),
            "first_seed": settings.first_seed + (self.seed if settings.start == "default" else 0),
            "data": self._data(settings.dataset),
            "backbone_settings": self._backbone(settings.backbone),
            "threads": self.threads,
        }

    def _data(self, dataset: str) -> dict[str, Any]:
        """A data set's settings with the study's seed added to that of its splits."""
        data = self.datasets[dataset]
        return data.model_dump() | {"split_seed": data.split_seed + self.seed}

    def _backbone(self, backbone: str) -> dict[str, Any]:
        """A backbone's settings with the study's seed added to that of its weights."""
        given = self.backbones[backbone]
        return given.model_dump() | {"seed": given.seed + self.seed}

    def gradient_parameters(self) -> dict[str, Any]:
        """What notebook 03 is told: every field of GradientsConfig, and what its names stand for."""
        return self._of_one_backbone(self.gradients, images=True)

    def attribution_parameters(self) -> dict[str, Any]:
        """What notebook 06 is told: every field of AttributionConfig, and what its names stand for."""
        return self._of_one_backbone(self.attribution)

    def published_parameters(self) -> dict[str, Any]:
        """What notebook 08 is told: every field of PublishedConfig, and what its names stand for."""
        return self._of_one_backbone(self.published)

    def features_only(self, dataset: str) -> bool:
        """Whether `dataset` has features in the place of images, so that no backbone can be trained on it."""
        return self.datasets[dataset].dataset in shipped_files.names(shipped_files.FEATURES)

    def _with_images(self) -> list[RunConfig]:
        """The runs that have a backbone and images, so that the backbone can be trained."""
        found = [r for r in self.runs.values() if self.backbones[r.backbone].model != "none"]
        return [r for r in found if not self.features_only(r.dataset)]

    def _of_one_backbone(self, given: Any, images: bool = False) -> dict[str, Any]:
        """`given` with the data set and backbone that it leaves out: those of the first run with a backbone.

        images: of the first one that has them too, if there is such a run.
        """
        with_backbone = [r for r in self.runs.values() if self.backbones[r.backbone].model != "none"]
        first = [*(self._with_images() if images else []), *with_backbone, *self.runs.values()][0]
        dataset, backbone = given.dataset or first.dataset, given.backbone or first.backbone
        own = given.model_dump()
        own |= {name: own[name] + self.seed for name in ("seed", "first_seed") if name in own}
        return own | {
            "dataset": dataset,
            "backbone": backbone,
            "data": self._data(dataset),
            "backbone_settings": self._backbone(backbone),
            "threads": self.threads,
        }

    def simulator_parameters(self) -> dict[str, Any]:
        """What notebook 04 is told."""
        return self.simulators.model_dump() | {"threads": self.threads}

    def troubleshooting_parameters(self, theme: str) -> dict[str, Any]:
        """What the notebook 05_troubleshooting_<theme> is told; one that lacks images or a ResNet is lent them."""
        given = self.troubleshooting
        told = {name: getattr(given, name) for name in TROUBLESHOOTING[theme]} | {"threads": self.threads}
        told["first_seed"] += self.seed
        if "dataset" not in told:
            return told
        runs = self._with_images()
        norms = [r for r in runs if "resnet" in self.backbones[r.backbone].model]
        names = [(r.dataset, r.backbone) for r in norms] + [(r.dataset, LENT) for r in runs] + [(LENT, LENT)]
        dataset, backbone = given.dataset or names[0][0], given.backbone or names[0][1]
        data = self._data(dataset) if dataset in self.datasets else LENT_DIGITS.model_dump()
        told |= {"dataset": dataset, "backbone": backbone, "data": data}
        if backbone in self.backbones:
            return told | {"backbone_settings": self._backbone(backbone)}
        init = "shipped" if data["image_size"] == LENT_DIGITS.image_size else "random"  # they ship for one size
        return told | {"backbone_settings": BackboneConfig(model="tiny_resnet", init=init).model_dump()}


def shipped_mismatch(data: DataConfig, backbone: BackboneConfig) -> str:
    """Why features or weights that ship with the package do not fit each other, in a sentence; '' where they do."""
    features = {name: shipped_files.read_card(name)["model"] for name in shipped_files.names(shipped_files.FEATURES)}
    if data.dataset in features:
        model = features[data.dataset]
        if (backbone.model, backbone.init) == (model, "shipped"):
            return ""
        return (
            f"data set '{data.dataset}' has only features of {model}; name a backbone with model: {model} and "
            "init: shipped, or use dataset: hymenoptera, which has the images"
        )
    if backbone.init != "shipped":
        return ""
    weights = shipped_files.names(shipped_files.WEIGHTS)
    if backbone.model not in weights:
        return f"no weights of {backbone.model} ship, only of {' and '.join(weights)}; set another init"
    size = shipped_files.read_card(backbone.model)["image_size"]
    if data.image_size != size:
        return f"the shipped {backbone.model} takes images of {size} px, not {data.image_size}; set image_size: {size}"
    return ""


def unknown_name(kind: str, name: str, known: Collection[str]) -> str:
    """A sentence that says `name` is no `kind`, and what may have been meant or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = f"; known: {', '.join(sorted(known))}" if not close or len(known) <= 15 else ""
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'{listed}{hint}"


class StudyError(ValueError):
    """A study file that cannot be used; the message is one sentence for the user."""


def load_study(file: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """The validated study in `file`, or of that name in `studies/`, with `overrides` applied.

    A key without dots (`seeds`, `data_dir`) is set in every entry that has it; `runs.heads.seeds` in one.
    Raises StudyError naming file and key.
    """
    path = find_study(file)
    content = _read(path)
    defaults = _section(content.pop("defaults", {}), "defaults", path)
    for key in defaults:
        if key not in RunConfig.model_fields:
            raise StudyError(f"{path}: defaults.{key}: {unknown_name('key', str(key), RunConfig.model_fields)}")
    if isinstance(content.get("runs"), dict):
        runs = content["runs"].items()
        content["runs"] = {name: defaults | _section(run, f"runs.{name}", path) for name, run in runs}
    for key, value in (overrides or {}).items():
        _override(content, key, value, path)
    try:
        return StudyConfig.model_validate(content, strict=False)
    except ValidationError as error:
        raise StudyError(f"{path}: {_first_error(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path)
    except YAMLError as error:
        raise StudyError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected keys such as datasets, backbones and runs; see studies/smoke.yaml")
    return {"name": path.stem} | content


def _section(value: Any, key: str, path: Path) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise StudyError(
        f"{path}: {key}: expected keys with values, got {json.dumps(value, default=str, ensure_ascii=False)[:80]}"
    )


def find_study(file: str | Path) -> Path:
    """The path of a study given as a file or as a name in `studies/`; StudyError where there is none."""
    known = {path.stem: path for path in sorted((PROJECT / "studies").glob("*.yaml"))}
    if str(file) in known:
        return known[str(file)]
    try:
        path = user_path(file)
        exists = path.is_file()
    except OSError:  # a name that is too long for a file
        exists = False
    if not exists:
        raise StudyError(f"{unknown_name('study', str(file), known)}; or give the path of a .yaml file")
    return path


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`['seeds=5']` -> `{'seeds': 5}`; values are read as YAML."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise StudyError(f"--set {pair}: expected key=value, for example --set seeds=5")
        try:
            overrides[key] = read_yaml(value)
        except YAMLError as error:
            raise StudyError(f"--set {pair}: {error}") from None
    return overrides


def _override(content: dict, key: str, value: Any, path: Path) -> None:
    if "." in key or key in StudyConfig.model_fields:
        *parents, last = key.split(".")
        for parent in parents:
            content = content.get(parent) if isinstance(content, dict) else None
        if not isinstance(content, dict):
            raise StudyError(f"{path}: --set {key}: there is no such section in the study")
        content[last] = value
        return
    sections = {"datasets": DataConfig, "backbones": BackboneConfig, "runs": RunConfig}
    holders = [section for section, model in sections.items() if key in model.model_fields]
    if not holders:
        fields = {field for model in sections.values() for field in model.model_fields}
        raise StudyError(f"{path}: --set {key}: {unknown_name('key', key, fields)}")
    for section in holders:
        entries = content.get(section)
        for entry in entries.values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                entry[key] = value


EXPECTED = {  # by the start of pydantic's name of the error
    "missing": "this key is needed and missing",
    "int_": "expected a whole number",
    "float_": "expected a number",
    "finite_number": "expected a number",
    "string_too_short": "expected some text",
    "string_too_long": "expected at most {max_length} characters",
    "string_pattern": "expected letters, digits, '.', '_' or '-', beginning with a letter or digit",
    "string_": "expected text",
    "list_": "expected a list such as [A, C]",
    "dict_": "expected keys with values",
    "model_": "expected keys with values",
    "too_short": "expected at least {min_length} {entries}",
    "too_long": "expected at most {max_length} entries",
    "greater_than_equal": "expected at least {ge:g}",
    "greater_than": "expected more than {gt:g}",
    "less_than_equal": "expected at most {le:g}",
    "less_than": "expected less than {lt:g}",
    "literal_error": "expected {expected}",
}


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part)[:60] for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        field, colon, _ = message.partition(": ")
        below = bool(colon) and " " not in field  # 'variants: ...' of the section 'runs.heads'
        return f"{key}{'.' if key and below else ': ' if key else ''}{message}"
    expected = next((text for kind, text in EXPECTED.items() if first["type"].startswith(kind)), message)
    context = first.get("ctx", {})
    expected = expected.format(**context, entries="entry" if context.get("min_length") == 1 else "entries")
    if first["type"] == "missing":
        return f"{key}: {expected}"
    given = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{key}: {expected}, got {given if len(given) < 80 else given[:77] + '...'}"


def check_names(study: StudyConfig, file: str | Path, registries: Mapping[str, Collection[str]]) -> None:
    """Raises StudyError where `study` names a variant, ansatz, encoding, data set or model that is unknown.

    `registries`: known names by kind ('variant', 'ansatz', 'encoding', 'dataset', 'model').
    """
    uses = [(f"datasets.{k}.dataset", "dataset", d.dataset) for k, d in study.datasets.items()]
    for key, backbone in study.backbones.items():
        uses.append((f"backbones.{key}.model", "model", backbone.model))
        uses.append((f"backbones.{key}.source_dataset", "dataset", backbone.source_dataset))
    for key, run in study.runs.items():
        uses.append((f"runs.{key}.ansatz", "ansatz", run.ansatz))
        uses.append((f"runs.{key}.encoding", "encoding", run.encoding))
        uses.extend((f"runs.{key}.variants", "variant", variant) for variant in run.variants)
    for key in ("gradients", "simulators", "attribution"):
        if (section := getattr(study, key)) is not None:
            uses += [(f"{key}.{kind}", kind, getattr(section, kind)) for kind in ("ansatz", "encoding")]
    if study.gradients is not None:
        uses.extend(("gradients.variants", "variant", name) for name in study.gradients.variants)
        uses.extend(("gradients.variance_ansatze", "ansatz", name) for name in study.gradients.variance_ansatze)
    if study.attribution is not None:
        for key in ("variants", "rate_variants", "fraction_variants"):
            uses.extend((f"attribution.{key}", "variant", name) for name in getattr(study.attribution, key))
    if study.published is not None:
        uses.extend(("published.variants", "variant", name) for name in study.published.variants)
    if study.simulators is not None:
        uses.extend(("simulators.networks", "model", name) for name in study.simulators.networks)
    for key, kind, name in uses:
        if name not in registries[kind]:
            raise StudyError(f"{file}: {key}: {unknown_name(kind, name, registries[kind])}")
