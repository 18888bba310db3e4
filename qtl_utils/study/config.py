"""What every section of a study file may say, and its data sets, backbones and runs.

The sections are pydantic models; `study_file` turns their errors into one sentence that names file, key and value."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from qtl_utils.study.names import unknown_name
from qtl_utils.study.paths import PROJECT, user_path

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
    protocol: Literal["repeated", "as_published", "fixed"] = "repeated"  # see how results are compared
    n_splits: int = Field(1, ge=1, le=1000)  # repeats, each with other images to train on
    split_seed: int = Field(0, ge=0)  # of the draw of splits
    train: Share = 0.6  # a fraction of the images, or a count
    validation: Share = 0.2  # likewise
    test: Share | Literal["rest"] = "rest"  # 'rest': every image that neither trains nor validates

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
    init: Literal["imagenet", "file", "source", "random", "shipped"] = "source"  # where the weights come from
    weights: UserPath | None = None  # .safetensors or .pth, for init: file
    source_dataset: str = "digits_source"  # what init: source is trained on
    source_epochs: int = Field(8, ge=1)  # of that training
    source_lr: Rate = 1e-3  # of that training
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
    """One candidate of a grid; what is left out keeps the run's own value."""

    lr_classical: Rate | None = None
    lr_quantum: Rate | None = None
    lr_backbone: Rate | None = None
    feature_scaling: Literal["none", "standard"] | None = None  # of frozen heads: a choice like the rates


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


SAMPLED = ("density", "device")  # simulators that draw shots
OF_2019 = ("lr_classical", "lr_quantum", "lr_backbone", "lr_step", "lr_gamma")
OF_2019 += ("epochs", "batch_size", "optimizer", "loss", "device_name", "shots")


class TrainConfig(Section):
    """How heads and networks are trained; the defaults are the 2019 ants/bees settings."""

    variants: list[str] = Field(["A", "C"], min_length=1)  # keys of qtl_utils.models.heads.VARIANTS
    first_seed: int = Field(0, ge=0)  # of initial weights and orders of samples
    seeds: int = Field(20, ge=1, le=100_000)  # first_seed, first_seed + 1 ...; seed s uses split s mod n_splits
    n_qubits: int = Field(4, ge=1, le=24)  # of the circuit
    depth: int = Field(6, ge=0, le=1000)  # layers of the circuit
    ansatz: str = "mari2019"  # a key of qtl_utils.circuits.ansatze.ANSATZE
    encoding: str = "tanh"  # a key of qtl_utils.circuits.ansatze.ENCODINGS
    angle_init: float = Field(0.01, ge=0)  # standard deviation of the initial angles, radians
    feature_scaling: Literal["none", "standard"] = "none"  # 'standard' is fitted on the training images
    epochs: int = Field(30, ge=1)  # of training
    batch_size: int = Field(4, ge=1)  # images per step
    optimizer: Literal["adam", "adam-pl", "adam-pl07", "sgd"] = "adam"  # see train.make_optimizer
    momentum: float = Field(0.0, ge=0, lt=1)  # of sgd
    beta2: float = Field(0.999, gt=0, lt=1)  # of adam
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"  # squared: outputs to 1 for the class, else 0
    reduction: Literal["mean", "sum"] = "mean"  # of the loss over a batch
    lr_classical: Rate = 4e-4  # learning rate of classical layers
    lr_quantum: Rate = 4e-4  # learning rate of the circuit's angles
    lr_backbone: Rate = 4e-4  # learning rate of the backbone, where it is trained
    lr_step: int = Field(10, ge=1)  # epochs between two decays
    lr_gamma: float = Field(0.1, gt=0, le=1)  # factor of a decay
    lr_schedule: Literal["after", "before"] = "after"  # 'before' an epoch: as published code does, a decay comes early
    settings: str = Field(
        "2019", min_length=1, max_length=60
    )  # what results with the rates above are called; left out: what was changed
    lr_grid: LrGrid = LrGrid()  # rates that validation chooses from
    start: Literal["default", "published-2d"] = "default"  # initial weights and data order
    simulator: str = "statevector"  # of the circuit: a key of qtl_utils.circuits.simulators.SIMULATORS
    diff_method: str | None = None  # a key of METHODS there; null: the simulator's own
    device_name: str | None = None  # of simulator: device, a key of qtl_utils.circuits.devices.DEVICES, or ibm:NAME
    shots: int | None = Field(None, ge=1)  # of every circuit, on density and device; null: exact values
    dtype: Literal["auto", "float32", "float64"] = "auto"  # auto: heads on features float64, whole networks float32
    device: str = "cpu"  # 'cpu', 'auto' (an accelerator if there is one), 'cuda', 'mps'

    @model_validator(mode="before")
    @classmethod
    def _name_settings(cls, values: Any) -> Any:
        """Results are called '2019' only where they were trained with the settings of 2019."""
        if not isinstance(values, dict) or "settings" in values:
            return values
        given = {name: values[name] for name in OF_2019 if name in values}
        changed = [f"{name} {value}" for name, value in given.items() if value != cls.model_fields[name].default]
        listed = ", ".join(changed)
        return values | {"settings": listed if 0 < len(listed) <= 60 else "2019 changed"} if changed else values

    @model_validator(mode="after")
    def _check(self):
        repeated = sorted({v for v in self.variants if self.variants.count(v) > 1})
        if repeated:
            raise ValueError(f"variants: {', '.join(repeated)} is listed twice; name each variant once")
        if (self.simulator == "device") != (self.device_name is not None):
            both = "simulator: device and device_name: NAME go together"
            raise ValueError(f"device_name: {both}; give both, or leave device_name out and name another simulator")
        if self.shots is not None and self.simulator not in SAMPLED:
            others = " or ".join(SAMPLED)
            raise ValueError(
                f"shots: simulator '{self.simulator}' has none; set simulator: {others}, or leave shots out"
            )
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

    dataset: Name  # a name in datasets
    backbone: Name  # a name in backbones
