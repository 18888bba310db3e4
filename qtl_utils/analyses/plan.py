"""What difference a study will be able to see, before it is run: `./run_all.sh plan STUDY`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qtl_utils.analyses.calibration import PAIRS, Design, Population, contrasts, fit_population, right_answers
from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.models import backbones
from qtl_utils.models.heads import VARIANTS
from qtl_utils.results import stats
from qtl_utils.study.config import DataConfig
from qtl_utils.study.shipped_files import FEATURES, read_arrays
from qtl_utils.study.study import StudyConfig
from qtl_utils.training.sketches import sketch

STUDIES = 12  # simulated for each data set
WANTED = 0.02  # the difference that is asked for
MOST = 20_000  # images that anybody is told to collect


def known_features(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,) that need no download: "squeezenet" (ants and bees), or a backbone on digits."""
    if name == "squeezenet":
        data = load_dataset("ants_bees")
        return read_arrays("ants_bees")[FEATURES], data.labels
    data = load_dataset("digits")
    network = backbones.load_backbone(name, 32, "shipped")
    return backbones.compute_features(network, load_pixels(data, 32)).numpy(), data.labels


@dataclass(frozen=True)
class Outlook:
    """What a data set of a study will show about two frozen heads: of similar ones first, then of different ones."""

    dataset: str
    sizes: dict[str, int]  # images in all, and in each subset
    n_splits: int
    seen: tuple[float, float]  # the smallest difference that is seen with probability POWER
    limit: tuple[float, float]  # the same with ever more splits of the same images
    images: tuple[float, float]  # how many images would show WANTED, split as here
    splits: tuple[float, float]  # how many splits of these images would; infinite where none do


def outlooks(study: StudyConfig) -> Iterator[Outlook]:
    """One for every data set whose splits are repeated and whose heads are trained on frozen features."""
    for name, settings in study.datasets.items():
        runs = [run for run in study.runs.values() if run.dataset == name]
        frozen = [run for run in runs if any(VARIANTS[v].training == "frozen" for v in run.variants)]
        data = sketch(settings) if settings.protocol == "repeated" and settings.n_splits > 1 and frozen else None
        if data is not None and data.points is None:
            seeds = min(run.seeds for run in frozen)
            yield outlook(name, settings, len(data.labels), len(data.classes), seeds)


def outlook(name: str, settings: DataConfig, n_images: int, n_classes: int, seeds: int) -> Outlook:
    """The outlook of a data set of `n_images`, whose heads are trained with `seeds` seeds."""
    source = "squeezenet" if n_classes == 2 else "tiny_resnet"
    population = fit_population(source, *known_features(source))
    used = min(settings.n_splits, seeds)
    splits = {"n_splits": used, "train": settings.train, "validation": settings.validation, "test": settings.test}
    design = Design(name, source, n_images, max(1, seeds // used), splits)
    found = _parts(design, population)
    sizes = _sizes(design, population)
    ends = sorted(found, key=lambda parts: _detected(parts.splits + parts.images, used))
    ends = (ends[0], ends[-1])
    return Outlook(
        name,
        {"images": n_images, **sizes},
        used,
        tuple(_detected(p.splits + p.images, used) for p in ends),
        tuple(_detected(p.images, n_images) for p in ends),
        tuple(n_images * _needed(p.splits + p.images) for p in ends),
        tuple(_splits_needed(p, used) for p in ends),
    )


def _parts(design: Design, population: Population) -> list[stats.Parts]:
    """What makes each difference of the family uncertain, the mean over simulated studies."""
    held = {pair: [] for pair in PAIRS}
    for study in range(STUDIES):
        right, splits = right_answers(design, population, np.random.default_rng([study]))
        every = contrasts(right)
        for pair in PAIRS:
            held[pair].append(stats.crossed_parts(every["difference", " - ".join(pair)], range(splits.n_splits)))
    return [
        stats.Parts(
            float(np.mean([p.splits for p in parts])),
            float(np.mean([p.images for p in parts])),
            parts[0].n_units,
            parts[0].n_images,
        )
        for parts in held.values()
    ]


def _sizes(design: Design, population: Population) -> dict[str, int]:
    _, splits = right_answers(design, population, np.random.default_rng(0))
    return {subset: len(splits.indices(0, subset)) for subset in ("train", "validation", "test")}


def _detected(variance: float, n: float) -> float:
    """The difference that is seen with probability POWER where the mean has this variance, with n - 1 degrees."""
    found = stats.Estimate(
        value=0.0, low=0.0, high=0.0, p=1.0, p_equivalent=1.0, n_splits=2, n_seeds=1, n_pairs=1, n_sources=0, interval="",
        error=float(np.sqrt(stats.UNSEEN * variance)), df=max(n - 1, 1),
    )  # fmt: skip
    return stats.detectable(found)


def _needed(variance: float) -> float:
    """By how much this variance must be divided for WANTED to be seen."""
    return max(1.0, variance * (_detected(1.0, 1000) / WANTED) ** 2)


def _splits_needed(parts: stats.Parts, n_splits: int) -> float:
    room = (WANTED / _detected(1.0, 1000)) ** 2 - parts.images
    return max(n_splits, n_splits * parts.splits / room) if room > 0 else np.inf


def sentences(found: Outlook) -> list[str]:
    """An outlook in words."""
    n = found.sizes
    lines = [
        f"{found.dataset}: {found.n_splits} splits of {n['images']} images ({n['train']} train, {n['validation']} "
        f"validate, {n['test']} test). Between two frozen heads, a difference of {_range(found.seen)} of 100 images is "
        f"seen in {100 * stats.POWER:.0f} of 100 such studies; the smaller number is for heads that mostly agree."
    ]
    if max(found.splits) <= found.n_splits:
        return [*lines, f"  This is enough to see {100 * WANTED:.0f} of 100."]
    lines.append(f"  With ever more splits of the same images: {_range(found.limit)} of 100.")
    goal = f"  To see {100 * WANTED:.0f} of 100:"
    if np.isfinite(found.splits[1]):
        return [*lines, f"{goal} about {np.ceil(found.splits[1]):.0f} splits, for heads of either kind."]
    few, many = (min(count, MOST) for count in found.images)
    with_splits = (
        f"{np.ceil(found.splits[0]):.0f} splits for heads that mostly agree, and "
        if np.isfinite(found.splits[0])
        else ""
    )
    several = f"{'over ' if many == MOST else 'about '}{many:,.0f} images, split as here, for heads that do not"
    return [*lines, f"{goal} {with_splits or f'about {few:,.0f} images for heads that mostly agree, and '}{several}."]


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{100 * end:.1f}" for end in ends)
    return low if low == high else f"{low} to {high}"
