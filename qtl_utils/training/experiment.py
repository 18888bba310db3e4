"""From the settings of a study to the tables of one run: data, backbone, features, every variant."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pennylane as qml
import safetensors.torch
import torch
import torchvision

from qtl_utils.data.datasets import Dataset, Splits, load_dataset, load_pixels, load_splits, make_splits, save_splits
from qtl_utils.models import backbones, start_2019
from qtl_utils.models.backbones import NO_BACKBONE, Backbone
from qtl_utils.models.heads import VARIANTS, HeadSettings, count_parameters, make_head
from qtl_utils.results.runs import write_run
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig, TrainConfig
from qtl_utils.study.environment import PeakMemory, find_device
from qtl_utils.study.paths import PROJECT, atomic, user_path
from qtl_utils.training.train import (
    Fit,
    Network,
    Rates,
    Replica,
    fit_heads,
    fit_network,
    join_fits,
    make_replicas,
    random_orders,
    selection_subset,
    train_epoch,
)

ECE_BINS = 10  # of equal width, for the expected calibration error
# the modules whose source the stored trainings of whole networks depend on
TRAINING_MODULES = (
    "models/backbones circuits/ansatze training/experiment models/heads circuits/kernels circuits/program "
    "circuits/layer circuits/statevector circuits/statevector_cpu training/train"
)
NO_PIXELS = np.empty(0, np.uint8)
SOURCE_BATCH = 32  # images per step of a source training
TUNED = "tuned"  # what results with rates chosen on validation are called


@dataclass(frozen=True)
class Source:
    """One initial backbone, before any training on the target."""

    features: torch.Tensor  # (N, F)
    state: dict[str, torch.Tensor]  # empty where only features are known


@dataclass(frozen=True)
class Inputs:
    """What every variant of a run starts from; `pixels` is empty for 2-D points and for features that ship.

    `features` and `state` are those of the first initial backbone, `others` those that further splits start from.
    """

    data: Dataset
    splits: Splits
    pixels: np.ndarray  # (N, 3, S, S) uint8
    features: torch.Tensor  # (N, F)
    backbone: BackboneConfig
    state: dict[str, torch.Tensor]
    image_size: int
    others: tuple[Source, ...] = ()

    @property
    def n_sources(self) -> int:
        """How many initial backbones the study trains or draws here; 0 where their weights are given."""
        return 1 + len(self.others) if self.backbone.own else 0

    def source_number(self, split: int) -> int | None:
        """Which of the study's own initial backbones a split starts from; None where the weights are given."""
        return split % self.n_sources if self.n_sources else None

    def source(self, split: int) -> Source:
        """The initial backbone of a split: split j starts from number j mod n_sources."""
        every = (Source(self.features, self.state), *self.others)
        return every[split % len(every)]


# ---- data and backbone ----------------------------------------------------------------------------------------------


def open_dataset(folder: Path, config: DataConfig) -> tuple[Dataset, Splits]:
    """The data set and its splits, read from `folder`/splits.json if they were drawn with the same settings before."""
    data_dir = user_path(config.data_dir) if config.data_dir else None
    data = load_dataset(config.dataset, data_dir=data_dir, cache_dir=PROJECT / "data", **config.options)
    settings, file = Path(folder) / "settings.json", Path(folder) / "splits.json"
    text = config.model_dump_json(indent=2) + "\n"
    if file.is_file() and settings.is_file() and settings.read_text(encoding="utf-8") == text:
        return data, load_splits(file, data)
    splits = draw_splits(data, config)
    save_splits(splits, data, file)
    with atomic(settings) as part:
        part.write_text(text, encoding="utf-8")
    return data, splits


def draw_splits(data: Dataset, config: DataConfig) -> Splits:
    """The splits that `config` asks for; more of them begin with the same ones."""
    return make_splits(
        data,
        protocol=config.protocol,
        n_splits=config.n_splits,
        seed=config.split_seed,
        train=config.train,
        validation=config.validation,
        test=config.test,
    )


def with_splits(inputs: Inputs, config: DataConfig, n_splits: int | None) -> Inputs:
    """`inputs` with `n_splits` splits, of which nothing is kept in files; as they are where that is None."""
    if n_splits is None:
        return inputs
    more = DataConfig(**config.model_dump() | {"n_splits": n_splits})
    return replace(inputs, splits=draw_splits(inputs.data, more))


def open_backbone(config: BackboneConfig, image_size: int, folder: Path, device="cpu") -> Backbone:
    """The backbone with its initial weights; source-trained ones are kept in `folder` and trained once."""
    if config.init != "source":
        return backbones.load_backbone(
            config.model, image_size, config.init, weights=config.weights, seed=config.seed
        ).to(device)
    code = code_of("models/backbones", "training/train", "training/experiment")
    key = hashlib.sha256(f"{config.model_dump_json(exclude={'sources'})}{image_size}{code}".encode()).hexdigest()[:16]
    file = Path(folder) / f"backbone-{config.model}-{key}.safetensors"
    if not file.is_file():
        state = backbone_state(train_source(config, image_size, device))
        with atomic(file) as part:
            safetensors.torch.save_file(state, part)
    return backbones.load_backbone(config.model, image_size, "file", weights=str(file)).to(device)


def train_source(config: BackboneConfig, image_size: int, device="cpu", rows: np.ndarray | None = None) -> Network:
    """A backbone with a linear head, trained from scratch on the images of the source classes: all, or `rows`.

    On a CPU it is trained in float64 and rounded in the end: training amplifies rounding, and from float32 every
    processor would arrive at another backbone.
    """
    data = load_dataset(config.source_dataset, cache_dir=PROJECT / "data")
    pixels = torch.from_numpy(load_pixels(data, image_size)).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    backbone = backbones.load_backbone(config.model, image_size, "random", seed=config.seed, frozen=False)
    head = make_head("C", HeadSettings(backbone.n_features, len(data.classes)), config.seed)
    model, settings = Network(backbone, head).to(device), TrainConfig(batch_size=SOURCE_BATCH)
    if torch.device(device).type == "cpu":
        model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.source_lr)
    rows = np.arange(len(data)) if rows is None else rows
    for order in random_orders(rows, config.seed, config.source_epochs):
        train_epoch(model, optimizer, pixels, labels, order, settings)
    return model.float()


def backbone_state(model: Network) -> dict[str, torch.Tensor]:
    """The weights of the backbone of `model`, without its head."""
    return {name: value.cpu().contiguous() for name, value in model.backbone.network.state_dict().items()}


def open_inputs(
    folder: Path, data_config: DataConfig, backbone_config: BackboneConfig, device: str = "cpu", sources: int = 1
) -> Inputs:
    """Data, splits, pixels and features of one data set and one backbone; what is in `folder` is not made again.

    sources: how many initial backbones are opened, of which splits take turns; at most one for each split.
    """
    data, splits = open_dataset(folder, data_config)
    if backbone_config.model == NO_BACKBONE:
        if data.points is None:
            raise ValueError(f"model 'none' is for 2-D points; data set '{data.name}' has images, name a backbone")
        features = torch.from_numpy(data.points)
        return Inputs(data, splits, NO_PIXELS, features, backbone_config, {}, 0)
    if data.points is not None:
        raise ValueError(f"data set '{data.name}' has points, not images; use a backbone with model: none")
    size = data_config.image_size
    if data.features:
        return Inputs(data, splits, NO_PIXELS, shipped_features(data, backbone_config), backbone_config, {}, size)
    pixels, opened = load_pixels(data, size), []
    for number in range(min(sources, splits.n_splits)):
        config = backbone_config.model_copy(update={"seed": backbone_config.seed + number})
        backbone = open_backbone(config, size, folder, find_device(device))
        features, _ = backbones.cached_features(backbone, pixels, folder)
        opened.append(Source(features, backbone.network.cpu().state_dict()))
    first, *others = opened
    return Inputs(data, splits, pixels, first.features, backbone_config, first.state, size, tuple(others))


def shipped_features(data: Dataset, config: BackboneConfig) -> torch.Tensor:
    """The features (N, F) that stand in the place of images; ValueError for another backbone than theirs."""
    if config.init != "shipped" or config.model not in data.features:
        known = " or ".join(data.features)
        raise ValueError(
            f"data set '{data.name}' has no images, only features of {known}; use a backbone with model: {known} and "
            "init: shipped, or dataset hymenoptera"
        )
    return torch.from_numpy(data.features[config.model])


def scale_features(features: torch.Tensor, splits: Splits) -> torch.Tensor:
    """Features (n_splits, N, F) with mean 0 and standard deviation 1 over the training samples of each split.

    features: (N, F), or (n_splits, N, F).
    """
    scaled = []
    for split in range(splits.n_splits):
        own = features[split] if features.ndim == 3 else features
        train = own[splits.indices(split, "train")]
        deviation = train.std(0, correction=0)
        scaled.append((own - train.mean(0)) / torch.where(deviation > 0, deviation, 1))
    return torch.stack(scaled)


def head_features(inputs: Inputs, config: TrainConfig) -> torch.Tensor:
    """What a head on frozen features is given: (N, F), or (n_splits, N, F) where splits differ in them."""
    features = inputs.features
    if inputs.others:
        features = torch.stack([inputs.source(split).features for split in range(inputs.splits.n_splits)])
    return scale_features(features, inputs.splits) if config.feature_scaling == "standard" else features


# ---- one run --------------------------------------------------------------------------------------------------------


def candidates(variant: str, config: TrainConfig) -> list[Rates]:
    """The learning rates a variant is trained with: the run's own first, then its grid."""
    own = {group: getattr(config, f"lr_{group}") for group in ("classical", "quantum", "backbone")}
    grid = config.lr_grid.quantum if VARIANTS[variant].circuit else config.lr_grid.classical
    given = [{g: getattr(c, f"lr_{g}") for g in own if getattr(c, f"lr_{g}") is not None} for c in grid]
    return [Rates(**own), *(Rates(**own | one) for one in given)]


def head_settings(inputs: Inputs, config: TrainConfig) -> HeadSettings:
    return HeadSettings(
        n_features=inputs.features.shape[-1],
        n_classes=len(inputs.data.classes),
        n_qubits=config.n_qubits,
        depth=config.depth,
        ansatz=config.ansatz,
        encoding=config.encoding,
        angle_init=config.angle_init,
        backend=config.backend,
    )


def fit_variant(variant: str, inputs: Inputs, config: TrainConfig, *, folder: Path | None = None) -> Fit:
    """Trains one variant with every seed and every candidate of its grid.

    Unfinished and finished trainings of whole networks are kept in `folder`, from where an interrupted run goes on.
    """
    settings, device = head_settings(inputs, config), find_device(config.device)
    rates = candidates(variant, config)
    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, rates)
    if VARIANTS[variant].training == "frozen":
        return fit_frozen(variant, inputs, config, replicas, device)
    if not inputs.pixels.size:
        raise ValueError(f"variant '{variant}' trains a backbone, and {why_no_pixels(inputs.data)}")
    if config.feature_scaling != "none":
        raise ValueError(f"variant '{variant}' trains its features: set feature_scaling: none, or run it by itself")
    pixels = torch.from_numpy(inputs.pixels).to(device)
    fits = []
    for replica in replicas:
        name = f"{variant}-seed{replica.seed}-rates{replica.candidate}"
        key = _training_key(variant, inputs, config, replica)
        done = folder and folder / f"{name}-{key}.done"
        if done and done.is_file():
            fits.append(_read_fit(done, replica))
            continue
        fit = fit_network(
            partial(make_network, variant, inputs, settings, split=replica.split),
            pixels,
            inputs.data.labels,
            inputs.splits,
            replica,
            config,
            checkpoint=folder and folder / f"{name}-{key}.part",
            label=name,
        )
        print(f"{name}: {config.epochs} epochs in {fit.seconds[0]:.0f} s")
        if done:
            _write_fit(fit, done)
        fits.append(fit)
    return join_fits(fits)


def fit_frozen(
    variant, inputs: Inputs, config: TrainConfig, replicas: Sequence[Replica], device, build=None, **hooks
) -> Fit:
    """Trains a head on the frozen features of `inputs` for all `replicas`.

    `build(seed)`: a head in the place of the variant's; `hooks`: pace and watch of `fit_heads`.
    """
    if device.type == "mps":  # heads sum up in double precision, which it has not
        device = torch.device("cpu")
    features = head_features(inputs, config)
    settings, orders = head_settings(inputs, config), random_orders
    if config.start == "published-2d":
        orders = partial(start_2019.orders, runs_before=start_2019.runs_before(variant))
        build = lambda seed: start_2019.initialise(make_head(variant, settings, seed), seed)  # noqa: E731
    return fit_heads(
        build or (lambda seed: make_head(variant, settings, seed)),
        features.to(device),
        inputs.data.labels,
        inputs.splits,
        replicas,
        config,
        orders=orders,
        label=variant,
        **hooks,
    )


def why_no_pixels(data: Dataset) -> str:
    """Why there are no pixels to train a backbone on, and the way out, to follow 'and'."""
    if data.features:
        return f"data set '{data.name}' has features only; use dataset hymenoptera, which has the images"
    return "2-D points have none; use frozen variants"


def make_network(variant: str, inputs: Inputs, settings: HeadSettings, seed: int, split: int = 0) -> Network:
    """The initial backbone of `split` and the head of `seed`, as one model whose parts are trained together."""
    backbone = backbones.load_backbone(inputs.backbone.model, inputs.image_size, "random", frozen=False)
    backbone.network.load_state_dict(inputs.source(split).state)
    return Network(backbone, make_head(variant, settings, seed))


def _training_key(variant, inputs, config, replica) -> str:
    content = [variant, repr(replica), config.model_dump_json(exclude={"variants", "seeds", "first_seed", "lr_grid"})]
    content.append(code_of(*TRAINING_MODULES.split()))
    arrays = (inputs.splits.subsets, inputs.pixels, inputs.data.labels)
    sha = hashlib.sha256("".join(content).encode() + b"".join(array.tobytes() for array in arrays))
    for value in inputs.source(replica.split).state.values():
        sha.update(value.numpy().tobytes())
    return sha.hexdigest()[:12]


def code_of(*modules: str) -> str:
    """The source of these modules and the versions below them: what a stored result depends on besides its inputs."""
    versions = [torch.__version__, torchvision.__version__, qml.__version__]
    return "\n".join([(PROJECT / "qtl_utils" / f"{m}.py").read_text(encoding="utf-8") for m in modules] + versions)


def _write_fit(fit: Fit, file: Path) -> None:
    arrays = {"history": fit.history, "best_epoch": fit.best_epoch, "seconds": fit.seconds}
    arrays |= {f"logits.{kind}": logits for kind, logits in fit.logits.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with atomic(file) as part:
        safetensors.torch.save_file(tensors | {f"weights.{k}": v.contiguous() for k, v in fit.weights.items()}, part)
    file.with_suffix(".part").unlink(missing_ok=True)


def _read_fit(file: Path, replica: Replica) -> Fit:
    tensors = safetensors.torch.load_file(file)
    part = {k: {n.removeprefix(k): v for n, v in tensors.items() if n.startswith(k)} for k in ("logits.", "weights.")}
    arrays = {name: tensors[name].numpy() for name in ("history", "best_epoch", "seconds")}
    logits = {kind: values.numpy() for kind, values in part["logits."].items()}
    return Fit((replica,), logits=logits, weights=part["weights."], **arrays)


# ---- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VariantResult:
    """The tidy rows and the weights of one variant."""

    metrics: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    variants: pd.DataFrame
    tuning: pd.DataFrame
    weights: dict[str, torch.Tensor]


def run_variant(variant: str, inputs: Inputs, config: RunConfig, keys: dict[str, str], folder: Path) -> VariantResult:
    """Trains `variant` and returns its tables; one that cannot be built is a row with the reason.

    keys: study, dataset, backbone and run, as every row carries them.
    """
    keys = keys | {"variant": variant, "protocol": inputs.splits.protocol}
    if reason := VARIANTS[variant].refuses(head_settings(inputs, config)):
        row = {**keys, "settings": config.settings, "n_seeds": 0, "skipped_reason": reason}
        return VariantResult(*[pd.DataFrame()] * 3, pd.DataFrame([row]), pd.DataFrame(), {})
    if config.lr_grid.classical and selection_subset(inputs.splits) == "test":
        raise ValueError(
            "lr_grid: protocol 'as_published' has no validation set to choose rates on; leave the grid empty"
        )
    with PeakMemory() as memory:
        fit = fit_variant(variant, inputs, config, folder=folder)
    chosen = choose_candidates(fit, inputs.splits)
    reported = {config.settings: np.array([r.candidate == 0 for r in fit.replicas])}
    if config.lr_grid.classical:
        reported[TUNED] = np.array([r.candidate == chosen[r.split] for r in fit.replicas])
    frames = {"metrics": [], "history": [], "predictions": []}
    weights = {}
    for settings, mask in reported.items():
        for name, rows in score(fit, np.flatnonzero(mask), inputs).items():
            frames[name].append(rows.assign(**keys, settings=settings))
        index = np.flatnonzero(mask)[np.argsort([fit.replicas[i].seed for i in np.flatnonzero(mask)], kind="stable")]
        weights |= {f"{settings}/{variant}/{name}": p[index].contiguous() for name, p in fit.weights.items()}
    costs = {
        "all_seeds_seconds": fit.seconds.sum(),
        "one_seed_seconds": one_seed_seconds(variant, fit, inputs, config),
        "peak_memory_bytes": memory.bytes,
    }
    counts = model_parameters(variant, inputs, config)
    rows = [
        {**keys, "settings": settings, **counts, "n_seeds": config.seeds, "skipped_reason": "", **costs}
        | common_rates([fit.replicas[i].rates for i in np.flatnonzero(mask)])
        for settings, mask in reported.items()
    ]
    tuning = tuning_table(fit, chosen).assign(**keys, settings=TUNED) if TUNED in reported else pd.DataFrame()
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    return VariantResult(**joined, variants=pd.DataFrame(rows), tuning=tuning, weights=weights)


def common_rates(rates: Sequence[Rates]) -> dict[str, float]:
    """The learning rates all trainings share; nan where tuning chose differently from split to split."""
    values = {group: {getattr(r, group) for r in rates} for group in ("classical", "quantum", "backbone")}
    return {f"lr_{group}": found.pop() if len(found) == 1 else np.nan for group, found in values.items()}


def choose_candidates(fit: Fit, splits: Splits) -> dict[int, int]:
    """The candidate of each split with the highest last-epoch validation accuracy, then the lowest loss, over seeds."""
    rows = tuning_table(fit, {})
    mean = rows.groupby(["split", "candidate"])[["accuracy", "loss"]].mean().reset_index()
    ordered = mean.sort_values(["split", "accuracy", "loss", "candidate"], ascending=[True, False, True, True])
    return dict(ordered.groupby("split").first()["candidate"])


def tuning_table(fit: Fit, chosen: dict[int, int]) -> pd.DataFrame:
    """Last-epoch validation loss and accuracy of every training, with its rates."""
    rows = [
        {
            "seed": r.seed,
            "split": r.split,
            "candidate": r.candidate,
            **{f"lr_{group}": getattr(r.rates, group) for group in ("classical", "quantum", "backbone")},
            "loss": loss,
            "accuracy": accuracy,
            "chosen": chosen.get(r.split) == r.candidate,
        }
        for r, (loss, accuracy) in zip(fit.replicas, fit.history[:, -1, 1], strict=True)
    ]
    frame = pd.DataFrame(rows)
    return frame.drop(columns="candidate") if chosen else frame


def score(fit: Fit, index: np.ndarray, inputs: Inputs) -> dict[str, pd.DataFrame]:
    """Metrics, history and predictions of the replicas `index`."""
    history, predictions = [], []
    labels, classes, ids = inputs.data.labels, np.array(inputs.data.classes), np.array(inputs.data.ids)
    chosen_on = selection_subset(inputs.splits)
    for i in index:
        replica = fit.replicas[i]
        keys = {"seed": replica.seed, "split": replica.split}
        for s, subset in enumerate(("train", chosen_on)):
            loss, accuracy = fit.history[i, :, s].T
            epoch = np.arange(1, len(loss) + 1)
            history.append(pd.DataFrame({"epoch": epoch, "subset": subset, "loss": loss, "accuracy": accuracy} | keys))
        samples = inputs.splits.indices(replica.split, "test")
        probability = softmax(fit.logits["last"][i, samples])
        found = probability.argmax(1)
        predictions.append(
            pd.DataFrame(
                {
                    "subset": "test",
                    "epoch_kind": "last",
                    "id": ids[samples],
                    "label": classes[labels[samples]],
                    "prediction": classes[found],
                    "probability": np.round(probability.max(1), 6),
                }
                | keys
            )
        )
    return {
        "metrics": score_metrics(fit, index, inputs),
        "history": pd.concat(history, ignore_index=True),
        "predictions": pd.concat(predictions, ignore_index=True),
    }


def score_metrics(fit: Fit, index: np.ndarray, inputs: Inputs) -> pd.DataFrame:
    """Metrics of the replicas `index`: a row per replica, subset and kind of epoch that `fit.logits` holds."""
    rows, labels = [], inputs.data.labels
    for i in index:
        replica = fit.replicas[i]
        epochs = {"best": int(fit.best_epoch[i]), "last": fit.history.shape[1]}
        for kind in fit.logits:
            for subset in ("train", "validation", "test"):
                samples = inputs.splits.indices(replica.split, subset)
                if len(samples):
                    values = classification_scores(fit.logits[kind][i, samples], labels[samples])
                    keys = {"seed": replica.seed, "split": replica.split, "subset": subset, "epoch_kind": kind}
                    keys["source"] = inputs.source_number(replica.split)
                    rows.append(keys | {"epoch": epochs[kind], **values})
    return pd.DataFrame(rows)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def classification_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """n, cross-entropy, accuracy, balanced accuracy and expected calibration error of logits (n, K)."""
    probability = softmax(logits)
    prediction, right = probability.argmax(1), probability.argmax(1) == labels
    log_likelihood = np.log(np.clip(probability[np.arange(len(labels)), labels], 1e-300, None))
    recall = [right[labels == k].mean() for k in np.unique(labels)]
    confidence = probability[np.arange(len(labels)), prediction]
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    # arXiv:1706.04599, equation 3: the gap between confidence and accuracy, averaged over the samples of each bin
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)]
    return {
        "n": len(labels),
        "loss": -log_likelihood.mean(),
        "accuracy": right.mean(),
        "balanced_accuracy": float(np.mean(recall)),
        "ece": sum(gaps) / len(labels),
    }


def one_seed_seconds(variant: str, fit: Fit, inputs: Inputs, config: RunConfig) -> float:
    """Wall seconds of training one seed alone: of networks the median; of a head from trainings of 1 and 3 epochs."""
    if VARIANTS[variant].training == "full":
        return float(np.median(fit.seconds))
    times = []
    for epochs in (1, 1, 3):  # the first is a warm-up
        start = time.perf_counter()
        short = config.model_copy(update={"epochs": epochs})
        fit_frozen(variant, inputs, short, fit.replicas[:1], find_device(config.device))
        times.append(time.perf_counter() - start)
    return times[1] + (config.epochs - 1) * max(times[2] - times[1], 0.0) / 2


def model_parameters(variant: str, inputs: Inputs, config: RunConfig) -> dict[str, int]:
    """Parameter counts of the whole model, backbone included."""
    settings = head_settings(inputs, config)
    if VARIANTS[variant].training == "full":
        sample = torch.from_numpy(inputs.pixels[:4])
        return count_parameters(make_network(variant, inputs, settings, 0), sample)
    counts = count_parameters(make_head(variant, settings, 0), inputs.features[:16])
    if inputs.backbone.model != NO_BACKBONE:
        backbone = backbones.load_backbone(inputs.backbone.model, inputs.image_size, "random")
        counts["total"] += sum(p.numel() for p in backbone.parameters())
    return counts


def save_run(folder: Path, config: RunConfig, results: Sequence[VariantResult], **settings) -> None:
    """Writes the files of a run: weights first, metrics.csv, the sign that it is complete, last."""
    weights = {name: value for result in results for name, value in result.weights.items()}
    with atomic(Path(folder) / "weights.safetensors") as part:
        safetensors.torch.save_file(weights, part)
    frames = {}
    for name in ("metrics", "history", "predictions", "variants", "tuning"):
        rows = [getattr(result, name) for result in results if len(getattr(result, name))]
        frames[name] = pd.concat(rows, ignore_index=True) if rows else None
    skipped = [f"{r['variant']} ({r['skipped_reason']})" for _, r in frames["variants"].iterrows() if not r["n_seeds"]]
    if frames["metrics"] is None:
        raise ValueError(f"no variant of this run can be built: {'; '.join(skipped)}")
    text = json.loads(config.model_dump_json())
    write_run(folder, config=text | settings, **frames)
