"""What difference a study will be able to see, before it is run: `./run_all.sh plan STUDY`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qtl_utils.analyses.calibration import (
    PAIRS,
    Design,
    Population,
    contrasts,
    fit_population,
    known_features,
    right_answers,
)
from qtl_utils.models.heads import VARIANTS
from qtl_utils.results import stats
from qtl_utils.study.config import DataConfig
from qtl_utils.study.study import StudyConfig
from qtl_utils.training.sketches import sketch

STUDIES = 12  # simulated for each data set
MANY = 40  # splits: so many that their number hardly limits what is seen
WANTED = 0.02  # the difference that is asked for
MOST_SPLITS = 300  # that anybody is told to train
MOST_IMAGES = 20_000  # that anybody is told to collect


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
            seeds = max(run.seeds for run in frozen)
            yield outlook(name, settings, len(data.labels), len(data.classes), seeds)


def outlook(name: str, settings: DataConfig, n_images: int, n_classes: int, seeds: int) -> Outlook:
    """The outlook of a data set of `n_images`, whose heads are trained with `seeds` seeds."""
    source = "squeezenet" if n_classes == 2 else "tiny_resnet"
    population = fit_population(source, *known_features(source))
    used = min(settings.n_splits, seeds)
    shares = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    design = Design(name, source, n_images, max(1, seeds // used), {"n_splits": used, **shares})
    here, sizes = _parts(design, population)
    many, _ = _parts(replace(design, splits={"n_splits": MANY, **shares}), population)
    order = sorted(range(len(PAIRS)), key=lambda i: here[i].error)
    similar, different = order[0], order[-1]
    return Outlook(
        name,
        {"images": n_images, **sizes},
        used,
        tuple(_seen(here[i]) for i in (similar, different)),
        tuple(_seen(replace(many[i], splits=0.0)) for i in (similar, different)),
        tuple(n_images * max(1.0, (_seen(here[i]) / WANTED) ** 2) for i in (similar, different)),
        tuple(_splits_needed(many[i], used, _seen(here[i])) for i in (similar, different)),
    )


def _parts(design: Design, population: Population) -> tuple[list[stats.Parts], dict[str, int]]:
    """What makes each difference of the family uncertain, the mean over simulated studies; the sizes of the subsets."""
    held = {pair: [] for pair in PAIRS}
    for study in range(STUDIES):
        right, splits = right_answers(design, population, np.random.default_rng([study]))
        every = contrasts(right)
        for pair in PAIRS:
            held[pair].append(stats.crossed_parts(every["difference", " - ".join(pair)], range(splits.n_splits)))
    means = [
        replace(parts[0], **{name: float(np.mean([getattr(p, name) for p in parts])) for name in ("splits", "images")})
        for parts in held.values()
    ]
    return means, {subset: len(splits.indices(0, subset)) for subset in ("train", "validation", "test")}


def _seen(parts: stats.Parts) -> float:
    """The difference that is seen with probability POWER."""
    return stats.least_seen(parts.error, parts.df) if parts.error else 0.0


def _splits_needed(many: stats.Parts, n_splits: int, seen: float) -> float:
    """How many splits show WANTED, given what makes MANY of them uncertain; infinite where none do."""
    if seen <= WANTED:
        return n_splits
    room = (WANTED / stats.least_seen(1.0, MANY)) ** 2 / stats.UNSEEN - many.images
    return max(n_splits, MANY * many.splits / room) if room > 0 else np.inf


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
    few, many = found.splits
    wanted = f"{100 * WANTED:.0f} of 100"
    if many <= MOST_SPLITS:
        return [*lines, f"  To see {wanted}: about {np.ceil(many):.0f} splits."]
    if few <= found.n_splits:
        similar = f"These splits are enough to see {wanted} between heads that mostly agree"
    elif few <= MOST_SPLITS:
        similar = f"About {np.ceil(few):.0f} splits are enough to see {wanted} between heads that mostly agree"
    else:
        similar = f"To see {wanted} between heads that mostly agree takes {_images(found.images[0])}"
    return [*lines, f"  {similar}; between heads that do not, it takes {_images(found.images[1])}, split as here."]


def _images(n: float) -> str:
    return f"about {n:,.0f} images" if n <= MOST_IMAGES else f"more than {MOST_IMAGES:,} images"


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{100 * end:.1f}" for end in ends)
    return low if low == high else f"{low} to {high}"
