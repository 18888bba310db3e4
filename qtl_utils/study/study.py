"""A whole study: its sections, how they fit together, and what each notebook is told."""

from typing import Any

from pydantic import Field, create_model, model_validator

from qtl_utils.study import shipped_files
from qtl_utils.study.config import BackboneConfig, DataConfig, Name, RunConfig, Section, UserPath
from qtl_utils.study.names import NO_BACKBONE, unknown_name
from qtl_utils.study.sections import NOTEBOOKS, Notebook, sections

LENT = "lent"  # the name of a data set or backbone that a notebook needs and the study has not
LENT_DIGITS = DataConfig(dataset="digits", image_size=32, n_splits=5, train=100, validation=50, test=50)


class Study(Section):
    """One study file but for the sections of its notebooks, which StudyConfig adds."""

    name: Name  # of the folder in results/
    description: str = ""  # a sentence for the report
    threads: int = Field(1, ge=1, le=256)  # of every job; the results depend on it, not on --cores
    seed: int = Field(0, ge=0, le=1_000_000)  # added to every other seed: the same study on another sample
    extensions: list[UserPath] = []  # files of the user's own that add to the registries; see study/extensions.py
    datasets: dict[Name, DataConfig] = Field(min_length=1)  # by names of your own, which runs and sections speak of
    backbones: dict[Name, BackboneConfig] = Field(min_length=1)  # likewise
    runs: dict[Name, RunConfig] = Field(min_length=1)  # one execution of 02_train_variant each

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
        for section in sections():
            for kind, known in (("dataset", self.datasets), ("backbone", self.backbones)):
                name = getattr(getattr(self, section), kind, None)
                if name is not None and name not in known:
                    raise ValueError(f"{section}.{kind}: {unknown_name(kind, name, known)}")
        for number, task in enumerate(self.repair.tasks if self.repair else ()):
            for kind, known in (("dataset", self.datasets), ("backbone", self.backbones)):
                name = getattr(task, kind)
                if name is not None and name not in known:
                    raise ValueError(f"repair.tasks.{number}.{kind}: {unknown_name(kind, name, known)}")
        self._check_attribution()
        if self.published and self.told("08_published_results")["backbone_settings"]["model"] == NO_BACKBONE:
            raise ValueError("published.backbone: 2-D points have none; name a backbone and a dataset with images")
        return self

    def _check_attribution(self) -> None:
        if self.attribution is not None and self.attribution.n_splits is not None:
            dataset = self.told("06_who_learned")["dataset"]
            if (protocol := self.datasets[dataset].protocol) != "repeated":
                raise ValueError(
                    f"attribution.n_splits: data set '{dataset}' has protocol '{protocol}' and so one partition; "
                    "leave n_splits out, or name another data set"
                )

    def _check_run(self, run: str, settings: RunConfig) -> None:
        data = self.datasets[settings.dataset]
        backbone = self.backbones[settings.backbone]
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

    def notebooks(self) -> list[Notebook]:
        """The rows of NOTEBOOKS that this study has."""
        return [row for row in NOTEBOOKS if not row.section or getattr(self, row.section) is not None]

    def told(self, file: str) -> dict[str, Any]:
        """What the notebook `file` of NOTEBOOKS is told: its settings, and what their names stand for."""
        row = next(row for row in NOTEBOOKS if row.file == file)
        if not row.section:
            return {}
        given = getattr(self, row.section).model_dump()
        told = {name: given[name] for name in (given if row.fields is None else row.fields)} | {"threads": self.threads}
        told |= {name: told[name] + self.seed for name in ("seed", "first_seed") if name in told}
        if row.looks_at in ("nothing", "runs"):
            return told
        if row.looks_at == "tasks":
            tasks = [t | self._choice(t["dataset"], t["backbone"], images=t["joint_seeds"] > 0) for t in told["tasks"]]
            return told | {"tasks": tasks}
        if row.looks_at == "resnet":
            return told | self._resnet(told["dataset"], told["backbone"])
        return told | self._choice(told["dataset"], told["backbone"], images=row.looks_at == "images")

    def features_only(self, dataset: str) -> bool:
        """Whether `dataset` has features in the place of images, so that no backbone can be trained on it."""
        return self.datasets[dataset].dataset in shipped_files.names(shipped_files.FEATURES)

    def _with_images(self) -> list[RunConfig]:
        """The runs that have a backbone and images, so that the backbone can be trained."""
        found = [r for r in self.runs.values() if self.backbones[r.backbone].model != NO_BACKBONE]
        return [r for r in found if not self.features_only(r.dataset)]

    def _choice(self, dataset: str | None, backbone: str | None, images: bool) -> dict[str, Any]:
        """A data set and a backbone; those that are left out are those of the first run with a backbone.

        images: of the first one that has them too, if there is such a run.
        """
        with_backbone = [r for r in self.runs.values() if self.backbones[r.backbone].model != NO_BACKBONE]
        first = [*(self._with_images() if images else []), *with_backbone, *self.runs.values()][0]
        dataset = dataset or first.dataset
        backbone = backbone or first.backbone
        return {
            "dataset": dataset,
            "backbone": backbone,
            "data": self._data(dataset),
            "backbone_settings": self._backbone(backbone),
        }

    def _resnet(self, dataset: str | None, backbone: str | None) -> dict[str, Any]:
        """A data set with images and a ResNet; what is left out and the study has not is lent."""
        runs = self._with_images()
        norms = [r for r in runs if "resnet" in self.backbones[r.backbone].model]
        names = [(r.dataset, r.backbone) for r in norms] + [(r.dataset, LENT) for r in runs] + [(LENT, LENT)]
        dataset = dataset or names[0][0]
        backbone = backbone or names[0][1]
        data = self._data(dataset) if dataset in self.datasets else LENT_DIGITS.model_dump()
        if backbone in self.backbones:
            settings = self._backbone(backbone)
        else:
            init = "shipped" if data["image_size"] == LENT_DIGITS.image_size else "random"  # they ship for one size
            settings = BackboneConfig(model="tiny_resnet", init=init).model_dump()
        return {"dataset": dataset, "backbone": backbone, "data": data, "backbone_settings": settings}


StudyConfig = create_model(
    "StudyConfig",
    __base__=Study,
    __doc__="One study file: data sets, backbones, runs, and a section for each kind of notebook.",
    **{name: (settings | None, settings() if on else None) for name, (settings, on) in sections().items()},
)


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
