"""Which sample trains, selects and tests in every repeat; duplicates across them; the card of a data set."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd

from qtl_utils.data.dataset import Dataset
from qtl_utils.study.paths import atomic

SUBSETS = ("train", "validation", "test")
PROTOCOLS = ("repeated", "as_published", "fixed")
REST = "rest"  # the size of a test set that takes every sample which neither trains nor selects


@dataclass(frozen=True, eq=False)
class Splits:
    """The subset of every sample in every split: (n_splits, N) of "train", "validation", "test" or "" (unused)."""

    protocol: str  # one of PROTOCOLS
    subsets: np.ndarray  # (n_splits, N) of str

    @property
    def n_splits(self) -> int:
        return len(self.subsets)

    def indices(self, split: int, subset: str) -> np.ndarray:
        """The samples of one subset of one split, in the data set's order; (n,) int64, may be empty."""
        if subset not in SUBSETS:
            raise ValueError(f"Unknown subset {subset!r}; expected one of {', '.join(SUBSETS)}.")
        return np.flatnonzero(self.subsets[split] == subset)

    def table(self, dataset: Dataset) -> pd.DataFrame:
        """Number of samples `n` per split, subset and class."""
        rows = [
            (split, subset, name, int((dataset.labels[self.indices(split, subset)] == label).sum()))
            for split in range(self.n_splits)
            for subset in SUBSETS
            if len(self.indices(split, subset))
            for label, name in enumerate(dataset.classes)
        ]
        return pd.DataFrame(rows, columns=["split", "subset", "class", "n"])


def make_splits(
    dataset: Dataset,
    *,
    protocol: str = "repeated",
    n_splits: int = 1,
    seed: int = 0,
    train: float = 0.6,
    validation: float = 0.2,
    test: float | str = REST,
    pool: np.ndarray | None = None,
) -> Splits:
    """Splits of `dataset`, stratified by class; sizes are fractions (float) or numbers of samples (int).

    test: a size, or "rest": whatever neither trains nor validates is tested on. pool: of "repeated", the samples that
    splits are drawn from, all by default; the others are unused.
    "repeated" draws `n_splits` of them in rounds. Within a round every class stands in one random order, from which
    the splits cut their subsets at equally spaced offsets: their test sets (or, if these are larger, their training
    sets) have as little in common as the data allow. A split depends on `seed` and its own number alone. Samples with
    equal content stay together.
    "as_published" is the source's own train set, tested on its test (else validation) set, no validation.
    "fixed" is the source's own train, validation and test; a missing validation is cut from train.
    ValueError when a class has too few samples for a subset, or the source gives no such subset.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
    if n_splits < 1 or (n_splits > 1 and protocol != "repeated"):
        limit = "at least 1" if protocol == "repeated" else "1"
        raise ValueError(f"n_splits={n_splits} with protocol {protocol!r}: expected {limit}.")
    if protocol == "repeated":
        asked = {"train": train, "validation": validation, "test": test}
        pool = np.arange(len(dataset.labels)) if pool is None else pool
        size = splits_per_round(asked, len(pool))
        subsets = np.full((n_splits, len(dataset.labels)), "", dtype="<U10")
        for s in range(n_splits):
            subsets[s, pool] = _draw(dataset, pool, asked, [seed, s // size], s % size, size)
        return Splits(protocol, subsets)
    given = np.array(dataset.given)
    tested = "test" if protocol == "fixed" or "test" in given else "validation"
    for needed in ("train", tested):
        if needed not in given:
            raise ValueError(f"Dataset {dataset.name!r} gives no {needed} set; use protocol 'repeated'.")
    subsets = np.where(given == "train", "train", np.where(given == tested, "test", "")).astype("<U10")
    if protocol == "fixed" and "validation" in given:
        subsets[given == "validation"] = "validation"
    elif protocol == "fixed":
        pool = np.flatnonzero(given == "train")
        rest = len(pool) - validation if isinstance(validation, Integral) else 1.0 - validation
        if rest <= 0:
            few = f"validation={validation} leaves none of the {len(pool)} training samples of {dataset.name!r}"
            raise ValueError(f"{few}; ask for fewer.")
        subsets[pool] = _draw(dataset, pool, {"train": rest, "validation": validation}, [seed, 0])
    return Splits(protocol, subsets[None])


def hold_out(dataset: Dataset, share: float, seed: int = 0) -> np.ndarray:
    """The samples of a final test set, `share` of each class, copies together; (n,) int64."""
    drawn = _draw(dataset, np.arange(len(dataset.labels)), {"train": 1.0 - share, "test": share}, [seed, 2019])
    return np.flatnonzero(drawn == "test")


def splits_per_round(asked: Mapping[str, float | str], n: int) -> int:
    """How often the smaller of train and test fits into n samples: so many splits share one order of the samples."""
    totals = dict(zip(asked, _totals("", asked, n), strict=False))
    smaller = min(totals["train"], totals.get("test") or totals["train"])
    return max(1, int(n // smaller))


def _draw(
    dataset: Dataset, pool: np.ndarray, asked: Mapping[str, float | str], seed: list[int], turn: int = 0, turns: int = 1
) -> np.ndarray:
    """(len(pool),) subset of each sample of `pool`: stratified, and equal hashes in one subset.

    seed: of the random order; the first subset begins at its `turn`-th of `turns` equal parts.
    """
    order_rng = np.random.default_rng(seed)
    copies_rng = np.random.default_rng([*seed, turn])
    labels = dataset.labels[pool]
    room = _room(dataset, labels, asked)  # (classes, subsets + unused) samples still to place
    column = np.empty(len(pool), dtype=int)
    _, group, size = np.unique(np.array(dataset.hashes)[pool], return_inverse=True, return_counts=True)
    copied = np.flatnonzero(size > 1)
    for g in copied[np.argsort(-size[copied], kind="stable")]:  # the largest first, while there is room
        members = np.flatnonzero(group == g)
        need = np.bincount(labels[members], minlength=len(room))
        weight = room[labels[members[0]]] * (room >= need[:, None]).all(axis=0)
        if not weight.any():
            name = dataset.ids[pool[members[0]]]
            raise ValueError(f"The {len(members)} copies of {name} fit into no subset together; remove copies.")
        column[members] = chosen = copies_rng.choice(len(weight), p=weight / weight.sum())
        room[:, chosen] -= need
    for label, places in enumerate(room):
        order = order_rng.permutation(np.flatnonzero(labels == label))
        single = order[size[group[order]] == 1]
        cut = np.repeat(np.arange(len(places)), places)
        column[single] = np.roll(cut, round(turn / turns * len(cut)))
    return np.array([*asked, ""], dtype="<U10")[column]


def _room(dataset: Dataset, labels: np.ndarray, asked: Mapping[str, float | str]) -> np.ndarray:
    """(classes, subsets + unused) number of samples: totals as asked, each in proportion to the classes."""
    totals = _totals(dataset.name, asked, len(labels))
    left = np.bincount(labels, minlength=len(dataset.classes))
    columns = []
    for total in totals:
        columns.append(_round_shares(left * (total / max(left.sum(), 1)), total))
        left = left - columns[-1]
    room = np.stack(columns, axis=1)
    for (subset, size), places in zip(asked.items(), room.T, strict=False):
        if size and not places.all():
            name = dataset.classes[int(np.argmin(places))]
            raise ValueError(
                f"Dataset {dataset.name!r}: {subset}={size} leaves no sample of class {name!r} for {subset} "
                f"({int((labels == dataset.classes.index(name)).sum())} samples in all); add samples or ask for more."
            )
    return room


def _totals(name: str, asked: Mapping[str, float | str], n: int) -> np.ndarray:
    """(subsets + unused,) number of samples in each, from fractions only or numbers only; "rest" leaves none unused."""
    numbers = [value for value in asked.values() if value != REST]
    sizes = np.array([float(v) if isinstance(v, Real) and not isinstance(v, bool) else -1 for v in numbers])
    text = ", ".join(f"{subset}={size}" for subset, size in asked.items())
    counted = all(isinstance(v, Integral) for v in numbers if v)
    if not (sizes >= 0).all() or not sizes[0]:
        raise ValueError(f"Split sizes {text}: expected numbers of at least 0, and some for train.")
    if not counted and (any(isinstance(v, Integral) for v in numbers if v) or sizes.sum() > 1 + 1e-9):
        raise ValueError(f"Split sizes {text}: expected fractions with a sum of at most 1, or whole numbers only.")
    if counted and sizes.sum() > n:
        raise ValueError(f"Split sizes {text}: dataset {name!r} holds only {n} samples; ask for fewer.")
    shares = sizes if counted else sizes * n
    left = max(n - shares.sum(), 0)
    return _round_shares(np.append(shares, [left, 0] if REST in asked.values() else left), n)


def _round_shares(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `shares` that add up to `total` (largest remainder)."""
    whole = np.floor(shares + 1e-9).astype(int)
    largest = np.argsort(whole - shares, kind="stable")
    whole[largest[: int(total) - whole.sum()]] += 1
    return whole


def save_splits(splits: Splits, dataset: Dataset, path: str | Path) -> None:
    """Writes id, hash and subset per split of every sample to a JSON file, one line per sample."""
    head = {"dataset": dataset.name, "protocol": splits.protocol}
    rows = zip(dataset.ids, dataset.hashes, splits.subsets.T.tolist(), strict=True)
    lines = [json.dumps({"id": i, "hash": h, "subsets": s}, ensure_ascii=False) for i, h, s in rows]
    text = json.dumps(head)[:-1] + ', "samples": [\n' + ",\n".join(lines) + "\n]}\n"
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def load_splits(path: str | Path, dataset: Dataset) -> Splits:
    """The splits in a file; ValueError if they were made for other samples than those of `dataset`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        samples = {s["id"]: s for s in content["samples"]}
        subsets = np.array([samples[i]["subsets"] for i in dataset.ids if i in samples], dtype="<U10").T
        protocol = content["protocol"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a splits file ({error}); delete it to draw the splits anew.") from error
    other = sorted(set(samples) ^ set(dataset.ids))
    other += [i for i, h in zip(dataset.ids, dataset.hashes, strict=True) if not other and samples[i]["hash"] != h]
    if other:
        raise ValueError(
            f"{path} was made for other data than {dataset.name!r}: {len(other)} samples differ, first {other[0]!r}; "
            "restore the data or delete the file to draw the splits anew."
        )
    return Splits(protocol, subsets)


def find_duplicates(dataset: Dataset, splits: Splits | None = None) -> pd.DataFrame:
    """Every sample whose content occurs more than once: hash, id, class, given, crosses_subsets.

    `crosses_subsets`: copies lie in different subsets of some split (without `splits`: of the given ones).
    Only exact copies of the decoded content are found, not similar pictures.
    """
    table = pd.DataFrame(
        {
            "hash": dataset.hashes,
            "id": dataset.ids,
            "class": [dataset.classes[label] for label in dataset.labels],
            "given": dataset.given,
        }
    )
    table = table[table.duplicated("hash", keep=False)]
    rows = np.array([dataset.given]) if splits is None else splits.subsets
    crosses = {
        value: any(len(set(row[list(index)]) - {""}) > 1 for row in rows)
        for value, index in table.groupby("hash").groups.items()
    }
    table = table.assign(crosses_subsets=table["hash"].map(crosses).astype(bool))
    return table.sort_values(["hash", "id"], ignore_index=True)


def dataset_card(dataset: Dataset, splits: Splits) -> dict:
    """What a data set holds and how it is split, as plain values for a JSON file."""
    duplicates = find_duplicates(dataset, splits)
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return {
        "name": dataset.name,
        "n": len(dataset.labels),
        "classes": dict(zip(dataset.classes, counts.tolist(), strict=True)),
        "sha256": hashlib.sha256("\n".join(dataset.hashes).encode()).hexdigest(),
        "skipped": dataset.skipped.to_dict("records"),
        "duplicates": {
            "samples": len(duplicates),
            "groups": int(duplicates["hash"].nunique()),
            "groups_crossing_subsets": int(duplicates.loc[duplicates["crosses_subsets"], "hash"].nunique()),
        },
        "protocol": splits.protocol,
        "n_splits": splits.n_splits,
        "splits": splits.table(dataset).to_dict("records"),
    }
