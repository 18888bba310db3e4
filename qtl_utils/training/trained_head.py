"""A trained head in a file, with all it takes to answer for new pictures: `predict`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from qtl_utils.data.dataset import square
from qtl_utils.data.images import read_image
from qtl_utils.models import backbones
from qtl_utils.models.heads import VARIANTS, HeadSettings, make_head
from qtl_utils.results import stats
from qtl_utils.results.pictures import MODEL as FILE
from qtl_utils.results.pictures import best_on_validation
from qtl_utils.results.runs import read_metrics, read_table
from qtl_utils.study import extensions, shipped_files
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig
from qtl_utils.study.names import unknown_name
from qtl_utils.study.paths import atomic, user_path
from qtl_utils.study.time_left import steadily
from qtl_utils.training.inputs import Inputs, open_inputs, scaling
from qtl_utils.training.run import TUNED
from qtl_utils.training.variants import head_settings

KIND = "qtl_utils trained head"  # what the card of such a file says it is
MADE_HERE = ("source", "random")  # initial weights that no file holds: they are kept with the head


@dataclass(frozen=True)
class TrainedHead:
    """A variant as a run trained it, with R seeds: what it answers is the mean of R heads."""

    card: dict[str, Any]  # variant, classes, backbone with its hash, preprocessing, head, seeds
    weights: dict[str, torch.Tensor]  # parameters of the heads, (R, ...)
    scaling: torch.Tensor | None = None  # (R, 2, F): mean and deviation that each head's features are scaled by
    state: dict[str, torch.Tensor] | None = None  # of a backbone that the study made itself


# ---- from a run to a file


def head_of_run(folder: str | Path, variant: str | None = None) -> TrainedHead:
    """The head that a run in `folder` (results/STUDY/runs/DATASET/RUN) trained, for every seed.

    variant: by default the one with the highest mean accuracy on validation. ValueError where its backbone was trained
    too, which no file keeps, or where the run had no images.
    """
    folder = Path(folder)
    extensions.load(_extensions(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = read_metrics(folder)
    settings = TUNED if TUNED in set(metrics["settings"]) else config["settings"]
    metrics = metrics[metrics["settings"] == settings]
    variant = _chosen(folder, metrics, variant)
    run = RunConfig.model_validate({key: config[key] for key in RunConfig.model_fields})
    data = DataConfig(**config["data"])
    inputs = _inputs_of(folder, data, BackboneConfig(**config["backbone_settings"]), run)
    weights, scaling = _trained(folder, variant, settings, run, inputs)
    card = {
        "kind": KIND,
        "variant": variant,
        "settings": settings,
        "classes": list(inputs.data.classes),
        "backbone": _backbone_card(inputs, data),
        "preprocessing": _preprocessing(inputs),
        "head": asdict(head_settings(inputs, run)),
        "seeds": sorted(metrics.loc[metrics["variant"] == variant, "seed"].unique().tolist()),
        "accuracy": _accuracy(metrics[metrics["variant"] == variant]),
        "extensions": _extensions(folder),
        "run": f"{folder.parents[2].name}/{run.dataset}/{folder.name}",
    }
    own = inputs.backbone.init in MADE_HERE
    return TrainedHead(card, weights, scaling, dict(inputs.state) if own else None)


def _chosen(folder: Path, metrics: pd.DataFrame, variant: str | None) -> str:
    """The variant that is asked for, or the best one on validation; ValueError where its backbone was trained too."""
    known = list(metrics["variant"].unique())
    frozen = [name for name in known if VARIANTS[name].training == "frozen"]
    if variant is not None and variant not in known:
        raise ValueError(f"{folder}: {unknown_name('variant', variant, known)}")
    if not frozen or variant not in (None, *frozen):
        who = f"variant {variant}" if variant else "every variant of this run"
        raise ValueError(f"{folder}: {who} trains its backbone, which is not kept; name a run or variant that does not")
    if variant is None and "validation" not in set(metrics["subset"]):
        raise ValueError(
            f"{folder}: no validation set says which is best; name one with --variant, of {', '.join(frozen)}"
        )
    return variant or best_on_validation(metrics[metrics["variant"].isin(frozen)])


def _accuracy(metrics: pd.DataFrame) -> dict[str, float | None]:
    """Mean accuracy on test images and its interval; None where there is no interval."""
    row = stats.summary(metrics, by=["variant"]).iloc[0]
    return {name: None if pd.isna(row[name]) else float(row[name]) for name in ("mean", "low", "high")}


def _inputs_of(folder: Path, data: DataConfig, backbone: BackboneConfig, run: RunConfig) -> Inputs:
    """The inputs of a run again, all of which lies in the study's folder; ValueError where it had no pictures."""
    if backbone.own and backbone.sources > 1:
        raise ValueError(f"{folder}: its heads stand on {backbone.sources} initial backbones, so they are no one model")
    inputs = open_inputs(folder.parents[2] / "data" / run.dataset, data, backbone)
    if inputs.data.points is not None:
        raise ValueError(f"{folder}: it was trained on 2-D points, and predict reads pictures")
    return inputs


def _trained(
    folder: Path, variant: str, settings: str, run: RunConfig, inputs: Inputs
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """Parameters (R, ...) of every seed, in their order, and how each one's features are scaled."""
    start = f"{settings}/{variant}/"
    kept = safetensors.torch.load_file(folder / "weights.safetensors")
    weights = {name.removeprefix(start): value for name, value in kept.items() if name.startswith(start)}
    scaled = dict.fromkeys(run.seed_range, run.feature_scaling)
    if settings == TUNED:
        tuning = read_table(folder / "tuning.csv", "tuning")
        chosen = tuning[tuning["chosen"] & (tuning["variant"] == variant)]
        scaled = dict(zip(chosen["seed"], chosen["feature_scaling"], strict=True))
    if "standard" not in scaled.values():
        return weights, None
    return weights, torch.stack([_scaling(inputs, seed, how) for seed, how in sorted(scaled.items())])


def _scaling(inputs: Inputs, seed: int, how: str) -> torch.Tensor:
    """Mean and deviation (2, F) of the training features of a seed's split; 0 and 1 where they are not scaled."""
    features = inputs.features
    if how != "standard":
        return torch.stack([torch.zeros_like(features[0]), torch.ones_like(features[0])])
    return scaling(features[inputs.splits.indices(seed % inputs.splits.n_splits, "train")])


def _backbone_card(inputs: Inputs, data: DataConfig) -> dict[str, Any]:
    """Name, origin and hash of the backbone; of features that ship, the weights that they were made with."""
    given = inputs.backbone
    card = {"model": given.model, "init": given.init, "weights": given.weights, "seed": given.seed}
    if inputs.data.features:
        return card | {"init": "imagenet", "sha256": shipped_files.read_card(data.dataset)["weights_sha256"]}
    return card | {"sha256": backbones.digest(*inputs.state.values())}


def _preprocessing(inputs: Inputs) -> dict[str, Any]:
    size = inputs.image_size
    resize = size * 256 // 224 if inputs.data.crop else size
    return {"image_size": size, "resize": resize, "mean": list(backbones.MEAN), "std": list(backbones.STD)}


def _extensions(folder: Path) -> list[str]:
    study = folder.parents[2] / "study.json"
    return json.loads(study.read_text(encoding="utf-8"))["extensions"] if study.is_file() else []


def save_head(head: TrainedHead, path: str | Path) -> Path:
    """Writes a trained head to a .safetensors file, its card among the metadata."""
    tensors = {f"head.{name}": value.contiguous() for name, value in head.weights.items()}
    tensors |= {f"backbone.{name}": value.contiguous() for name, value in (head.state or {}).items()}
    tensors |= {"scaling": head.scaling.contiguous()} if head.scaling is not None else {}
    with atomic(path) as part:
        safetensors.torch.save_file(tensors, part, {"card": json.dumps(head.card)})
    return Path(path)


def load_head(path: str | Path) -> TrainedHead:
    """The head that `save_head` wrote; ValueError where the file is none."""
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not readable as a trained head ({error}); give a study's {FILE}") from None
    if card.get("kind") != KIND:
        raise ValueError(f"{path}: holds no trained head; give a study's folder in results/, or its {FILE}")
    part = {
        kind: {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
        for kind in ("head.", "backbone.")
    }
    return TrainedHead(card, part["head."], tensors.get("scaling"), part["backbone."] or None)


def find_head(place: str | Path, variant: str | None = None) -> TrainedHead:
    """The trained head in a file, a study's folder or a run's folder.

    variant: another one than the file has; only a folder has several.
    """
    path = user_path(place)
    if path.is_file():
        head = load_head(path)
        if variant not in (None, head.card["variant"]):
            raise ValueError(f"{place}: holds variant {head.card['variant']}, not {variant}; give the study's folder")
        return head
    if not path.is_dir():
        raise FileNotFoundError(f"there is no '{place}'; give a study's folder in results/, or a {FILE}")
    if variant is None and (path / FILE).is_file():
        return load_head(path / FILE)
    return head_of_run(_run_folder(path, place), variant)


def _run_folder(path: Path, place: str | Path) -> Path:
    if (path / "metrics.csv").is_file():
        return path.resolve()
    runs = sorted(file.parent for file in path.resolve().glob("runs/*/[!.]*/metrics.csv"))
    if not runs:
        raise ValueError(f"'{place}' holds no finished run; give a study's folder in results/, or a {FILE}")
    if len(runs) > 1:
        listed = ", ".join(str(Path(place) / run.relative_to(path.resolve())) for run in runs)
        raise ValueError(f"'{place}' holds {len(runs)} runs; give one of them: {listed}")
    return runs[0]


# ---- answers for new pictures


def predict(
    model: TrainedHead | str | Path,
    pictures: Iterable[str | Path],
    *,
    variant: str | None = None,
    weights: str | Path | None = None,
) -> pd.DataFrame:
    """What a trained head takes pictures for: columns file, class, a probability per class, note.

    model: a head, its file, or the folder of a study or a run. pictures: files, and folders whose files are read.
    weights: the file of the backbone's weights, where it has moved. A file that cannot be read has an empty class,
    and a note that says why. ValueError where the weights are not those that the head was trained on.
    """
    head = model if isinstance(model, TrainedHead) else find_head(model, variant)
    extensions.load(head.card["extensions"])
    backbone = open_backbone(head, weights)
    files = list(pictures_in(pictures))
    notes, features = _features(backbone, files, head.card["preprocessing"])
    answers = probabilities(head, features) if len(features) else np.empty((0, len(head.card["classes"])))
    table = np.full((len(files), len(head.card["classes"])), np.nan)
    read = np.array([not note for note in notes], bool)
    table[read] = answers
    names = np.array(head.card["classes"], object)
    found = np.full(len(files), "", object)
    found[read] = names[answers.argmax(1)] if len(answers) else []
    columns = {f"probability {name}": table[:, k].round(6) for k, name in enumerate(names)}
    return pd.DataFrame({"file": [str(file) for file in files], "class": found, **columns, "note": notes})


def pictures_in(places: Iterable[str | Path]) -> Iterator[Path]:
    """The files among `places`, and those in the folders among them, at any depth; hidden ones are passed over."""
    for place in map(Path, places):
        if place.is_dir():
            inside = [path for path in sorted(place.rglob("*")) if path.is_file()]
            for path in inside:
                if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(place).parts):
                    yield path
        elif place.is_file():
            yield place
        else:
            raise FileNotFoundError(f"there is no picture or folder '{place}'; check its name")


def open_backbone(head: TrainedHead, weights: str | Path | None = None) -> backbones.Backbone:
    """The frozen backbone that a head was trained on; ValueError where the weights at hand are others."""
    card = head.card["backbone"]
    size = head.card["preprocessing"]["image_size"]
    source = weights or card["weights"] or f"the {card['init']} weights of {card['model']}"
    if head.state is not None:
        network = backbones.build_network(card["model"], size)
        classifier, n_features = backbones.cut(network)
        backbones.load_state(network, head.state, classifier, "the backbone in this file")
        backbone = backbones.Backbone(card["model"], network, n_features)
    else:
        init = "file" if weights else card["init"]
        given = str(weights) if weights else card["weights"]
        try:
            backbone = backbones.load_backbone(card["model"], size, init, weights=given, seed=card["seed"])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or say where they are now with --weights FILE") from None
    found = backbones.digest(*backbone.network.state_dict().values())
    if found != card["sha256"]:
        raise ValueError(
            f"{source}: these are not the weights of {card['model']} that the head was trained on (hash "
            f"{found[:12]}..., and it needs {card['sha256'][:12]}...); give the right file with --weights FILE"
        )
    return backbone


def _features(
    backbone: backbones.Backbone, files: Sequence[Path], preprocessing: dict[str, Any]
) -> tuple[list[str], torch.Tensor]:
    """Why each file cannot be read, '' where it can, and the features (n, F) of those that can."""
    notes = []
    features = []
    squares = []
    for file in steadily(files, "naming pictures", print):
        try:
            image = read_image(file)
            squares.append(square(image, preprocessing["image_size"], preprocessing["resize"]))
            notes.append("")
        except ValueError as error:
            notes.append(str(error))
        if len(squares) == backbones.FEATURE_BATCH:
            features.append(backbones.compute_features(backbone, np.stack(squares)))
            squares = []
    if squares:
        features.append(backbones.compute_features(backbone, np.stack(squares)))
    return notes, torch.cat(features) if features else torch.empty(0, backbone.n_features)


@torch.no_grad()
def probabilities(head: TrainedHead, features: torch.Tensor) -> np.ndarray:
    """The mean over R heads of their probabilities, (n, K), for features (n, F)."""
    settings = HeadSettings(**head.card["head"])
    sums = torch.zeros(len(features), settings.n_classes, dtype=torch.float64)
    for r, seed in enumerate(head.card["seeds"]):
        module = make_head(head.card["variant"], settings, seed).double()
        for name, parameter in module.named_parameters():
            parameter.copy_(head.weights[name][r])
        own = features.double()
        if head.scaling is not None:
            mean, deviation = head.scaling[r].double()
            own = (own - mean) / deviation
        sums += module(own).softmax(-1)
    return (sums / len(head.card["seeds"])).numpy()


def sentences(head: TrainedHead, table: pd.DataFrame) -> list[str]:
    """What `predict` did and how far it is to be trusted, in single lines."""
    unread = int((table["note"] != "").sum())
    card = head.card
    who = f"variant {card['variant']} of {card['run']}, on {card['backbone']['model']}"
    lines = [f"{len(table) - unread} pictures named by {who}."]
    if unread:
        lines.append(f"{unread} file{'s' * (unread > 1)} could not be read; the column note says why.")
    mean, low, high = (card["accuracy"][name] for name in ("mean", "low", "high"))
    between = "" if low is None else f" (between {100 * low:.0f} and {100 * high:.0f})"
    lines.append(f"Of 100 pictures like those it was trained on, about {100 * mean:.0f} are named rightly{between}.")
    return lines
