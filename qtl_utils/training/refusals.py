"""What a study may not ask for, found before anything is computed.

A rule is a function of the study that yields sentences 'key: what is wrong; how to mend it'. Rules need no results:
they look at registries, at the files a study names, and at networks without weights. They are asked in the order of
RULES, and later ones may rely on what earlier ones let pass.
"""

import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter, ValidationError

from qtl_utils.circuits import real_device
from qtl_utils.circuits.ansatze import ANSATZE
from qtl_utils.circuits.devices import DEVICES, device_program
from qtl_utils.circuits.noisy_program import MOST_QUBITS
from qtl_utils.circuits.simulators import METHODS, SIMULATORS, Task, draw, study_task, training_run
from qtl_utils.circuits.simulators import gradients as step_gradients
from qtl_utils.data.datasets import DATASETS
from qtl_utils.data.splits import REST, make_splits
from qtl_utils.models import backbones, start_2019
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, HeadSettings
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig, TrainConfig
from qtl_utils.study.names import NO_BACKBONE, REAL_DEVICE, unknown_name
from qtl_utils.study.study import StudyConfig
from qtl_utils.training.run import TUNED
from qtl_utils.training.sketches import cannot_take, kind_of, one_line, sketch
from qtl_utils.training.sources import SOURCE_BATCH

SIZES = (32, 64, 96, 128, 224, 299)  # pixels: what is offered where a network cannot take the size that was asked for
ELSEWHERE = {"data_dir", "cache_dir"}  # arguments of data sets that are no options: data_dir is a key of its own
KINDS = {float: "a number", int: "a whole number", str: "some text"}
Rule = Callable[[StudyConfig], Iterator[str]]


def refusal(study: StudyConfig) -> str:
    """The first sentence on what `study` asks for and cannot have; '' where there is none."""
    return next((sentence for rule in RULES for sentence in rule(study)), "")


# ---- what belongs together in a study


@dataclass(frozen=True)
class Use:
    """A data set and a backbone that some part of the study brings together."""

    where: str  # the key of that part, as in runs.heads
    dataset: str
    backbone: str
    data: DataConfig
    network: BackboneConfig
    whole: tuple[str, ...] = ()  # the variants that train the backbone too
    batch_size: int = 2


def uses(study: StudyConfig) -> list[Use]:
    """Every pair of a data set and a backbone that a notebook opens."""
    found = []
    for name, run in study.runs.items():
        data = study.datasets[run.dataset]
        network = study.backbones[run.backbone]
        found.append(Use(f"runs.{name}", run.dataset, run.backbone, data, network, whole(run), run.batch_size))
    for row in study.notebooks():
        told = study.told(row.file)
        if told.get("dataset") in study.datasets and told["backbone"] in study.backbones:
            settings = DataConfig(**told["data"]), BackboneConfig(**told["backbone_settings"])
            found.append(Use(row.section, told["dataset"], told["backbone"], *settings))
        for number, task in enumerate(told.get("tasks", ())):
            settings = DataConfig(**task["data"]), BackboneConfig(**task["backbone_settings"])
            networks = ("A-joint-bypass", "B") if task["joint_seeds"] else ()
            where = f"{row.section}.tasks.{number}"
            size = told["joint_batch_size"] if networks else told["batch_size"]
            found.append(Use(where, task["dataset"], task["backbone"], *settings, networks, size))
    return found


def whole(config: TrainConfig) -> tuple[str, ...]:
    """The variants of a run that train the backbone too."""
    return tuple(name for name in config.variants if VARIANTS[name].training == "full")


# ---- data sets


def options(study: StudyConfig) -> Iterator[str]:
    """Options that a data set does not take, of another type, or missing."""
    for name, settings in study.datasets.items():
        known = inspect.signature(DATASETS[settings.dataset]).parameters
        key = f"datasets.{name}"
        if settings.data_dir is not None and "data_dir" not in known:
            yield f"{key}.data_dir: '{settings.dataset}' reads no folder; leave it out"
        if settings.data_dir is None and settings.dataset == "image_folder":
            yield f"{key}.data_dir: 'image_folder' needs the folder of your images"
        for option, value in settings.options.items():
            if option not in known or option in ELSEWHERE:
                yield f"{key}.options.{option}: {unknown_name('option', option, known.keys() - ELSEWHERE)}"
            elif not _fits(value, wanted := known[option].annotation):
                expected = KINDS.get(wanted, f"a value of type {getattr(wanted, '__name__', wanted)}")
                yield f"{key}.options.{option}: expected {expected}, got {json.dumps(value, default=str)[:80]}"


def _fits(value, wanted) -> bool:
    if wanted is inspect.Parameter.empty:
        return True
    try:
        value = TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError:
        return False
    return not isinstance(value, float) or math.isfinite(value)


def samples(study: StudyConfig) -> Iterator[str]:
    """Folders that are no data set, and splits that a data set is too small for or does not come with."""
    for name, settings in study.datasets.items():
        try:
            data = sketch(settings)
        except (ValueError, FileNotFoundError, OverflowError) as error:
            yield f"datasets.{name}{_below(error)}"
            continue
        shares = {subset: getattr(settings, subset) for subset in asked_for(settings.protocol)}
        numbers = {subset: share for subset, share in shares.items() if share != REST}
        counts = [subset for subset, share in numbers.items() if isinstance(share, int)]
        if 0 < len(counts) < len(numbers):
            given = ", ".join(f"{subset} {share:g}" for subset, share in numbers.items())
            yield f"datasets.{name}: {given} mixes counts and fractions; give all as counts or all as fractions"
            continue
        try:
            if data is not None:
                make_splits(data, protocol=settings.protocol, seed=settings.split_seed, **shares)
        except ValueError as error:
            yield f"datasets.{name}: {one_line(error)}"


def _below(error: Exception) -> str:
    """'.data_dir: ...' of a message that begins with a key, ': ...' of others."""
    text = one_line(error)
    return f".{text}" if re.match(r"[a-z_.]+: ", text) else f": {text}"


def asked_for(protocol: str) -> tuple[str, ...]:
    """The subsets whose sizes a protocol is told; it takes the others as they are given."""
    return {"repeated": ("train", "validation", "test"), "fixed": ("validation",)}.get(protocol, ())


# ---- backbones


def pairs(study: StudyConfig) -> Iterator[str]:
    """Backbones for points, images without a backbone, and backbones trained on what they will be tested on."""
    for use in uses(study):
        has = kind_of(use.data)
        none = use.network.model == NO_BACKBONE
        if none and has != "points":
            yield (
                f"{use.where}.backbone: '{use.backbone}' has model none, which is for 2-D points, and data set "
                f"'{use.dataset}' has {has}; name a backbone with a network"
            )
        if not none and has == "points":
            yield (
                f"{use.where}.backbone: data set '{use.dataset}' has 2-D points, and {use.network.model} needs images; "
                "name a backbone with model: none"
            )
        if not none and use.network.init == "source" and use.network.source_dataset == use.data.dataset:
            yield (
                f"backbones.{use.backbone}.source_dataset: '{use.data.dataset}' is also what {use.where} learns; name "
                "other data to train the backbone on"
            )


def sources(study: StudyConfig) -> Iterator[str]:
    """Data sets that no backbone can be trained on before its transfer."""
    for name, settings in study.backbones.items():
        if settings.model == NO_BACKBONE or settings.init != "source":
            continue
        key = f"backbones.{name}.source_dataset"
        source = settings.source_dataset
        if source == "image_folder":
            yield f"{key}: 'image_folder' needs a folder, which a source cannot be given; name digits_source"
        elif (has := kind_of(DataConfig(dataset=source))) != "images":
            yield f"{key}: '{source}' has {has}, and a backbone is trained on images; name digits_source"


def image_sizes(study: StudyConfig) -> Iterator[str]:
    """Networks that cannot take images of the size of a data set, in use or in training."""
    for use in uses(study):
        if use.network.model == NO_BACKBONE or kind_of(use.data) != "images":
            continue
        model = use.network.model
        size = use.data.image_size
        batches = [SOURCE_BATCH] if use.network.init == "source" else []
        batches += [use.batch_size] if use.whole else []
        if reason := _cannot_take(model, size, batches):
            sizes = [other for other in SIZES if other != size and not _cannot_take(model, other, batches)]
            mend = f"set image_size: {min(sizes, key=lambda other: abs(other - size))}, or use another model"
            mend = mend if sizes else "use larger batches, or another model"
            yield f"datasets.{use.dataset}.image_size: {model} cannot take {size} px ({reason}); {mend}"


def _cannot_take(model: str, size: int, batches: list[int]) -> str:
    """Why `model` cannot take images of `size` px, alone or in training with these batch sizes; '' if it can."""
    for training, batch in [(False, 1), *((True, min(batch, 2)) for batch in batches)]:
        if reason := cannot_take(model, size, training, batch):
            return reason
    return ""


def weights(study: StudyConfig) -> Iterator[str]:
    """Weights that do not exist, cannot be read, or belong to another network."""
    for name, settings in study.backbones.items():
        if settings.model != NO_BACKBONE and settings.init == "imagenet":
            try:
                backbones.imagenet_url(settings.model)
            except ValueError as error:
                yield f"backbones.{name}.init: {one_line(error)}"
    for use in uses(study):
        if use.network.model == NO_BACKBONE:
            continue
        try:
            _try_weights(use.network, use.data.image_size)
        except (ValueError, FileNotFoundError) as error:
            yield f"backbones.{use.backbone}.{'weights' if use.network.init == 'file' else 'init'}: {one_line(error)}"


def _try_weights(network: BackboneConfig, image_size: int) -> None:
    """Raises ValueError where the weights of a file, or of ImageNet, are not those of the network at that size."""
    if network.init == "file":
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what is copied into a network without memory is lost
            own = backbones.build_network(network.model, image_size)
            classifier, _ = backbones.cut(own)
            backbones.load_state(own, backbones.read_weights(network.weights), classifier, network.weights)
    if network.init == "imagenet" and network.model.startswith("vit_"):
        native = _native_size(network.model)
        if native != image_size:
            raise ValueError(
                f"the ImageNet weights of {network.model} hold positions for {native} px, not for {image_size}; "
                f"set image_size: {native}, or use another model"
            )


def _native_size(model: str) -> int:
    """The image size that the ImageNet weights of `model` were made for."""
    import torchvision

    found = torchvision.models.get_model_weights(model)
    return getattr(found, "IMAGENET1K_V1", found.DEFAULT).transforms().crop_size[0]


# ---- training


def whole_networks(study: StudyConfig) -> Iterator[str]:
    """Variants that train a backbone where there is none, or with what is for heads on features only."""
    for name, run in study.runs.items():
        if not (trained := whole(run)):
            continue
        key = f"runs.{name}"
        variant = trained[0]
        if (has := kind_of(study.datasets[run.dataset])) != "images":
            instead = ", or use dataset: hymenoptera, which has the images" if has == "features" else ""
            yield f"{key}.variants: {variant} trains a backbone, and '{run.dataset}' has {has}; leave it out{instead}"
        grid = [*run.lr_grid.classical, *run.lr_grid.quantum]
        if {run.feature_scaling, *(c.feature_scaling for c in grid)} - {"none", None}:
            yield f"{key}.feature_scaling: {variant} trains its features; set none, or give {variant} a run of its own"
        if run.optimizer not in ("adam", "sgd"):
            yield (
                f"{key}.optimizer: '{run.optimizer}' trains heads on features only, and {variant} trains a backbone; "
                "use adam or sgd"
            )
        if run.start != "default":
            yield f"{key}.start: '{run.start}' is for heads, and {variant} trains a backbone; set start: default"


def heads(study: StudyConfig) -> Iterator[str]:
    """Runs none of whose heads can be built, and circuits that have no published start."""
    for name, run in study.runs.items():
        reasons = [VARIANTS[variant].refuses(head_of(run)) for variant in run.variants]
        if all(reasons):
            yield f"runs.{name}.variants: none of them can be built ({reasons[0]}); name others too"
        if run.start == "published-2d" and any(VARIANTS[variant].circuit for variant in run.variants):
            most = start_2019.MAX_DEPTH - 1
            shape = ANSATZE[run.ansatz].shape(run.n_qubits, run.depth)
            if run.depth > most:
                yield f"runs.{name}.depth: start 'published-2d' has angles for {most} layers; set depth: {most} or less"
            elif shape != (run.depth, run.n_qubits):
                yield (
                    f"runs.{name}.ansatz: start 'published-2d' has one angle per qubit and layer, and '{run.ansatz}' "
                    "needs others; use mari2019, or start: default"
                )


def gradients_of_circuits(study: StudyConfig) -> Iterator[str]:
    """Methods of differentiation that a simulator refuses, found out on two qubits."""
    for name, run in study.runs.items():
        usual = run.simulator == "statevector" and run.diff_method is None
        if usual or not any(VARIANTS[variant].circuit for variant in run.variants):
            continue
        if (run.device_name or "").startswith(REAL_DEVICE):
            continue
        method = run.diff_method or ("parameter-shift" if run.shots else SIMULATORS[run.simulator].own)
        task = study_task(run.ansatz, run.encoding, 2, 1)
        how = {key: value for key in ("device_name", "shots") if (value := getattr(run, key)) is not None}
        if error := _refused(task, run.simulator, method, **how):
            works = [other for other in METHODS if not _refused(task, run.simulator, other, **how)]
            yield (
                f"runs.{name}.diff_method: '{method}' does not work on {run.simulator} ({one_line(error)}); "
                f"use {' or '.join(works)}"
            )


def quantum_devices(study: StudyConfig) -> Iterator[str]:
    """Circuits that a quantum device, or its simulation, has no room for, and real devices without what they need."""
    for name, run in study.runs.items():
        if run.device_name is None:
            continue
        key = f"runs.{name}"
        if run.device_name.startswith(REAL_DEVICE):
            if reason := real_device.refuses(run.diff_method or "parameter-shift", run.shots):
                yield f"{key}.{reason}"
            continue
        if reason := _no_room(run.device_name, run.n_qubits):
            yield f"{key}.{reason}"
            continue
        task = study_task(run.ansatz, run.encoding, run.n_qubits, run.depth)
        try:
            device_program(task.circuit, task.n_qubits, task.weight_shape, run.device_name)
        except ValueError as error:
            yield f"{key}.device_name: {one_line(error)}"
    if (given := study.noise) is not None:
        reasons = (_no_room(name, given.n_qubits) for name in (*given.devices, *given.train_devices))
        yield from dict.fromkeys(f"noise.{reason}" for reason in reasons if reason)


def _no_room(device_name: str, n_qubits: int) -> str:
    """Why a device, or its simulation, has too few qubits; '' where it has enough."""
    has = DEVICES[device_name].n_qubits
    most = min(has, MOST_QUBITS)
    if n_qubits <= most:
        return ""
    why = f"'{device_name}' has {has} qubits" if has == most else f"a device is simulated up to {most} qubits"
    return f"n_qubits: {why}, not {n_qubits}; set n_qubits: {most} or less"


def _refused(task: Task, simulator: str, method: str, **how) -> Exception | None:
    """What `simulator` raises when a layer that is differentiated by `method` takes a step; None where it works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step_gradients(training_run(task, simulator, method, **how), *draw(task, 2))
    except Exception as error:  # whatever a simulator raises is its answer
        return error
    return None


def head_of(config: RunConfig, n_features: int = 2, n_classes: int = 2) -> HeadSettings:
    """What decides whether a head can be built: features and classes do not."""
    return HeadSettings(n_features, n_classes, config.n_qubits, config.depth, config.ansatz, config.encoding)


def names(study: StudyConfig) -> Iterator[str]:
    """Settings of several runs that their results could not be told apart by."""
    slugs: dict[str, str] = {}
    for name, run in study.runs.items():
        if run.settings == TUNED and run.lr_grid.classical:
            yield f"runs.{name}.settings: '{TUNED}' is what results with chosen rates are called; choose another name"
        if not run.settings.isprintable():
            yield f"runs.{name}.settings: {run.settings!r} is not one line of text; choose another name"
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", run.settings)
        if slugs.setdefault(slug, run.settings) != run.settings:
            both = f"'{slugs[slug]}' and '{run.settings}'"
            yield f"runs.{name}.settings: {both} are the same in names of files; choose names that differ in letters"


def devices(study: StudyConfig) -> Iterator[str]:
    """Devices that this machine does not have."""
    for name, run in study.runs.items():
        try:
            device = find_device(run.device)
        except ValueError as error:
            yield f"runs.{name}.{error}"
            continue
        if device.type != "cpu" and device.index and device.index >= torch.accelerator.device_count():
            has = torch.accelerator.device_count()
            yield f"runs.{name}.device: this machine has {has} of '{device.type}', counted from 0; name one of them"


# ---- the notebooks of the whole study


def gradients(study: StudyConfig) -> Iterator[str]:
    """What notebook 03 cannot watch or compare."""
    if (given := study.gradients) is None:
        return
    settings = HeadSettings(2, 2, given.n_qubits, given.depth, given.ansatz, given.encoding)
    for variant in given.variants:
        if reason := VARIANTS[variant].refuses(settings):
            yield f"gradients.variants: {variant} cannot be built ({reason}); leave it out"
    data = DataConfig(**study.told("03_gradient_diagnostics")["data"])
    if kind_of(data) != "images" and all(VARIANTS[variant].training == "full" for variant in given.variants):
        yield "gradients.variants: all of them train a backbone, and there are no images; name A or C too"
    if given.noise[0] != 0:
        yield f"gradients.noise: the others are compared with the first one; begin with 0, not {given.noise[0]:g}"


def attribution(study: StudyConfig) -> Iterator[str]:
    """Comparisons of notebook 06 that lack A or somebody to compare it with."""
    if (given := study.attribution) is None:
        return
    for key in ("rate_variants", "fraction_variants"):
        chosen = getattr(given, key)
        trained = [name for name in chosen if VARIANTS[name].training == "frozen" and name != "A"]
        if "A" not in chosen or not trained or (key == "rate_variants" and chosen[0] != "A"):
            yield f"attribution.{key}: A is compared with the others on frozen features; give A first, then C or others"
        if len(set(chosen)) < len(chosen):
            yield f"attribution.{key}: a variant is listed twice; name each variant once"
    if (mine := len(given.classical_factors)) != (angles := len(given.rate_factors)):
        yield f"attribution.classical_factors: {mine}, but {angles} rate_factors; all choose from equally many"


def simulators(study: StudyConfig) -> Iterator[str]:
    """Circuits and networks that notebook 04 cannot build."""
    if (given := study.simulators) is None:
        return
    base = given.scaling_base
    if set(base) != {"qubits", "depth", "batch"} or not 1 <= min(base.values()) <= max(base.values()) <= 30:
        yield f"simulators.scaling_base: expected qubits, depth and batch, each from 1 to 30; got {json.dumps(base)}"
    for model in given.networks:
        if model == NO_BACKBONE:
            yield "simulators.networks: 'none' is no network; leave it out"
        elif reason := cannot_take(model, given.image_size, True):
            yield f"simulators.image_size: {model} cannot take {given.image_size} px ({reason}); use another size"


RULES: list[Rule] = [
    options,
    samples,
    sources,
    pairs,
    whole_networks,
    image_sizes,
    weights,
    heads,
    quantum_devices,
    gradients_of_circuits,
    names,
    devices,
    gradients,
    attribution,
    simulators,
]
