"""The one page that answers for pictures of one's own, in plain words: from results files alone, as HTML and text."""

import json
import shlex
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from qtl_utils.results import stats
from qtl_utils.results.runs import GROUP, groups, read_runs, write_csv
from qtl_utils.study.paths import PROJECT, atomic
from qtl_utils.study.study import StudyConfig

TEMPLATES = PROJECT / "report"
PAGE = "pictures.html"  # in a study's folder, and beside it the same as text
TEXT = "pictures.txt"
MODEL = "model.safetensors"  # the best trained head, kept there too
RIVALS = ("C", "C-matched")  # A is compared with them
SHOWN = 24  # pictures on the page, of those that are always wrong
NAMED = 8  # pictures in the text, and rows of what was left out
CEILING = 0.98  # accuracy beyond which there is next to nothing to gain
WEAK = 0.1  # a class that is recognised so much less often than all pictures is worth more pictures
FEW = 20  # pictures of a class
EXPECTED = ("hidden", "not an image")  # how reasons begin that surprise nobody: such files are listed last
QUESTION = "Can the circuit help on your pictures?"


@dataclass(frozen=True)
class Found:
    """What the results files of a study say about one folder of pictures, with the best backbone and settings."""

    folder: Path  # of the study
    data_dir: Path  # of the pictures
    init: str  # where the backbone's weights come from
    model: str
    card: dict  # of the data set
    tests: dict[str, pd.Series]  # rival -> row of the table `comparisons`
    accuracy: pd.DataFrame  # rows of the table `accuracy`, by variant
    best: str  # the variant that is best on validation
    run: str  # that trained it
    heads: str  # the run that trained A
    predictions: pd.DataFrame  # of every variant that is compared
    hashes: dict[str, str]  # of every picture, by its id


def best_on_validation(metrics: pd.DataFrame) -> str:
    """The variant with the highest mean accuracy on validation after the last epoch, then the lowest loss."""
    rows = metrics[(metrics["subset"] == "validation") & (metrics["epoch_kind"] == "last")]
    means = rows.groupby("variant")[["accuracy", "loss"]].mean()
    return str(means.sort_values(["accuracy", "loss"], ascending=[False, True]).index[0])


def pictures_of(study: StudyConfig) -> str | None:
    """The data set of a study that is a folder of pictures on which A and a rival are trained; None where none is."""
    for run in study.runs.values():
        wanted = "A" in run.variants and set(RIVALS) & set(run.variants)
        if study.datasets[run.dataset].dataset == "image_folder" and wanted:
            return run.dataset
    return None


def read_found(folder: str | Path, dataset: str) -> Found | None:
    """What a finished study found out about `dataset`; None where A was not compared there."""
    folder = Path(folder)
    study = StudyConfig.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))
    text = dict.fromkeys([*GROUP, "variant"], str)  # a name may look like a number
    tables = {name: pd.read_csv(folder / "tables" / f"{name}.csv", dtype=text) for name in ("comparisons", "accuracy")}
    comparisons = tables["comparisons"].query("dataset == @dataset and family and verdict != 'not run'")
    if comparisons.empty:
        return None
    results = read_runs(folder)
    key = _best_group(comparisons, results["metrics"])
    rows = {name: part[(part[GROUP] == list(key)).all(axis=1)] for name, part in (tables | results).items()}
    best = _best_variant(rows["metrics"])
    backbone = study.backbones[key[1]]
    data = folder / "data" / dataset
    samples = json.loads((data / "splits.json").read_text(encoding="utf-8"))["samples"]
    tests = rows["comparisons"].query("family and b in @RIVALS").set_index("b", drop=False)
    return Found(
        folder=folder,
        data_dir=Path(study.datasets[dataset].data_dir),
        init=backbone.init,
        model=backbone.model,
        card=json.loads((data / "card.json").read_text(encoding="utf-8")),
        tests={name: tests.loc[name] for name in RIVALS if name in tests.index},
        accuracy=rows["accuracy"].set_index("variant"),
        best=best,
        run=_run_of(best, rows["metrics"]),
        heads=_run_of("A", rows["metrics"]),
        predictions=rows["predictions"][rows["predictions"]["variant"].isin({"A", *RIVALS, best})],
        hashes={sample["id"]: sample["hash"] for sample in samples},
    )


def _best_group(comparisons: pd.DataFrame, metrics: pd.DataFrame) -> tuple[str, ...]:
    """Of the backbones and settings that a study has, those whose best variant is best on validation."""
    there = set(comparisons[GROUP].itertuples(index=False, name=None))
    reached = {}
    for key, part in groups(metrics):
        if key in there:
            subset = "validation" if "validation" in set(part["subset"]) else "train"
            rows = part[(part["subset"] == subset) & (part["epoch_kind"] == "last")]
            reached[key] = (rows.groupby("variant")["accuracy"].mean().max(), key[2] == "tuned")
    return max(reached, key=lambda key: reached[key])


def _best_variant(metrics: pd.DataFrame) -> str:
    return best_on_validation(metrics) if "validation" in set(metrics["subset"]) else "A"


def _run_of(variant: str, metrics: pd.DataFrame) -> str:
    return metrics.loc[metrics["variant"] == variant, "run"].iloc[0]


# ---- what is said


def headline(verdicts: dict[str, str]) -> str:
    """The answer to QUESTION by the verdicts (stats.verdict) of A against its rivals, in one plain sentence."""
    plain, equal = (verdicts.get(name, "not run") for name in RIVALS)
    told = [verdict for verdict in (plain, equal) if verdict != "not run"]
    if "lower" in told:
        who = "a plain linear head" if plain == "lower" else "an equally large head"
        return f"No. On these pictures {who} without a circuit is right more often."
    if told and all(verdict == "higher" for verdict in told) and len(told) == len(RIVALS):
        return "Yes. With the circuit more pictures are recognised than with either head without one."
    if plain == "higher":
        said = "beats a plain linear head, but not an equally large one without circuit"
        return f"Not shown. The model with the circuit {said}."
    if equal == "higher":
        said = "beats an equally large head, but not a plain linear one without circuit"
        return f"Not shown. The model with the circuit {said}."
    if told and all(verdict == "equivalent" for verdict in told):
        return "No. With or without the circuit, as many pictures are recognised (to within 2 of 100)."
    if told and all(verdict == "no variation" for verdict in told):
        return "No. With or without the circuit, every division of the pictures gave the same result."
    if "one split" in told:
        return "We cannot tell. The pictures were divided only once, and that is too little to compare models."
    return "We cannot tell. A difference, if there is one, is too small to be seen with these pictures."


def _of_100(share: float) -> str:
    return f"{100 * share:.0f}"


def _range(row: pd.Series) -> str:
    """' (between 88 and 93)', or '' where there is no interval."""
    if not (np.isfinite(row["low"]) and np.isfinite(row["high"])):
        return ""
    low, high = _of_100(row["low"]), _of_100(row["high"])
    return f" (between {low} and {high})"


def answer(found: Found) -> list[str]:
    """Can the circuit help: the headline, then what each model reached and how they differ."""
    lines = [_headline(found)]
    reached = [f"{stats.PLAIN[v]} named {_of_100(found.accuracy.loc[v, 'accuracy'])} rightly" for v in _compared(found)]
    lines.append(f"Of 100 pictures they had not seen, {_and(reached)}.")
    lines += [_change(name, test) for name, test in found.tests.items() if np.isfinite(test["low"])]
    return lines


def _headline(found: Found) -> str:
    if _hopeless(found):
        return "We cannot tell. No model here does better than always naming the largest class."
    return headline({name: test["verdict"] for name, test in found.tests.items()})


def _compared(found: Found) -> list[str]:
    return [name for name in ("A", *RIVALS) if name in found.accuracy.index]


def _change(name: str, test: pd.Series) -> str:
    """How many pictures more or fewer are right with the circuit than with a rival."""
    low, high = (round(100 * test[end]) for end in ("low", "high"))
    if low == high == 0:
        change = "as many"
    elif low < 0 < high:
        change = f"between {-low} fewer and {high} more"
    else:
        few, many = sorted((abs(low), abs(high)))
        change = f"{few} to {many} {'more' if high > 0 else 'fewer'}"
    line = f"With the circuit instead of {stats.PLAIN[name]}, {change} of 100 pictures are right."
    if test["verdict"] == "not distinguishable" and test["low"] * test["high"] > 0:
        n = int(test["n_tests"])
        line += f" Taken alone this would be a difference, but of {n} comparisons one may look so by chance."
    return line


def _guessing(found: Found) -> float:
    return max(found.card["classes"].values()) / found.card["n"]


def _hopeless(found: Found) -> bool:
    return bool(found.accuracy["accuracy"].max() <= _guessing(found) + 0.02)


def expectation(found: Found) -> list[str]:
    """What accuracy to expect of the best model on new pictures."""
    row = found.accuracy.loc[found.best]
    return [
        f"About {_of_100(row['accuracy'])} of 100 new pictures of the same kind are recognised{_range(row)}, with the "
        f"model that did best on the pictures set aside for choosing: {stats.PLAIN.get(found.best, found.best)}.",
        f"Always naming the largest class would be right on {_of_100(_guessing(found))} of 100.",
    ]


def certainty(found: Found) -> list[str]:
    """How sure all this is, and what would have been missed."""
    n = found.card["n"]
    first = pd.DataFrame(found.card["splits"]).query("split == 0").groupby("subset")["n"].sum()
    sizes = {"train": "to learn from", "validation": "to choose settings on", "test": "to test with"}
    parts = [f"{first[subset]} {what}" for subset, what in sizes.items() if subset in first]
    times = found.card["n_splits"]
    lines = [f"Your {n} pictures were divided {times} time{'s' * (times > 1)}, each time into {_and(parts)}."]
    missed = [
        stats.least_seen(test["error"], test["df"], int(test["n_tests"]))
        for test in found.tests.values()
        if test["error"] > 0
    ]
    if missed:
        least = stats.of_hundred(max(missed)).replace("images", "pictures")
        lines.append(f"A difference between the models of under {least} can be missed with this many pictures.")
    if np.isfinite(found.accuracy.loc[found.best, "low"]):
        lines.append(
            "“Between” means: of 100 studies like this one, about 95 give a range that holds the true value. It "
            "covers which pictures were there and how training went, not pictures of another kind (another camera, "
            "light or place)."
        )
    return lines


def classes(found: Found) -> pd.DataFrame:
    """A row per class: pictures, share that the best model recognises, and what the others are mostly taken for."""
    rows = []
    best = found.predictions[found.predictions["variant"] == found.best]
    for name, n in found.card["classes"].items():
        part = best[best["label"] == name]
        wrong = part[part["prediction"] != name].groupby("prediction")["n"].sum()
        right = part.loc[part["prediction"] == name, "n"].sum() / max(part["n"].sum(), 1)
        taken_for = wrong.idxmax() if len(wrong) and right < 0.995 else ""
        rows.append({"class": name, "pictures": n, "right": right, "taken_for": taken_for})
    return pd.DataFrame(rows)


def always_wrong(predictions: pd.DataFrame) -> pd.DataFrame:
    """The pictures that no training of any variant got right: id, label, prediction (the most frequent), n; sorted.

    predictions: rows of the table of that name, n trainings each; the surest mistakes come first.
    """
    right = predictions["prediction"] == predictions["label"]
    ever = set(predictions.loc[right, "id"])
    rows = predictions[~predictions["id"].isin(ever)]
    rows = rows.assign(weight=rows["n"] * rows["probability"])
    each = rows.groupby(["id", "label", "prediction"], as_index=False)[["n", "weight"]].sum()
    totals = each.groupby("id")["n"].transform("sum")
    each = each.assign(share=each["weight"] / totals, n=totals).sort_values(["share", "id"], ascending=[False, True])
    return each.drop_duplicates("id")[["id", "label", "prediction", "n", "share"]].reset_index(drop=True)


def same_picture(hashes: dict[str, str]) -> list[list[str]]:
    """Groups of ids with the same content that lie in different classes (folders)."""
    held = defaultdict(list)
    for name, value in hashes.items():
        held[value].append(name)
    return [sorted(ids) for ids in held.values() if len({PurePosixPath(name).parent.name for name in ids}) > 1]


def advice(found: Found, wrong: pd.DataFrame, mixed: Sequence[Sequence[str]], weak: pd.DataFrame) -> list[str]:
    """What to do next, the most useful first."""
    lines = []
    if found.init == "shipped":
        lines.append(
            f"Use a backbone that has seen photographs. {found.model} ships with this project and knows handwritten "
            "digits only; with a network connection, or with --weights FILE, expect much more."
        )
    if mixed:
        which = "one picture belongs that lies" if len(mixed) == 1 else f"{len(mixed)} pictures belong that lie"
        lines.append(f"Decide to which class {which} in two classes, listed on this page.")
    if len(wrong):
        lines.append("Look at the pictures that are always wrong: a wrong label, a cut-off subject, or a rare kind?")
    for row in weak.itertuples():
        lines.append(
            f"Add pictures of “{shown(row[1])}”: {row.pictures} so far, and {_of_100(row.right)} of 100 are recognised."
        )
    best = found.accuracy["accuracy"].max()
    said = _headline(found)
    if best >= CEILING:
        lines.append("There is next to nothing left to gain here: a harder task would tell models apart.")
    elif said.startswith("We cannot tell"):
        lines.append(
            "To find out about smaller differences, more pictures help most; how many it takes, says "
            f"`./run_all.sh plan {shlex.quote(_study_file(found))}`"
        )
    if said.startswith("No."):
        lines.append("Use the model without a circuit: it is simpler and, here, as good or better.")
    if (found.folder / MODEL).is_file():
        command = f"./run_all.sh predict {shlex.quote(str(found.folder))} NEW_PICTURES/ --out answers.csv"
        if said.startswith("No.") and found.best == "A":
            command += f" --variant {found.accuracy.loc[list(found.tests), 'accuracy'].idxmax()}"
        lines.append(f"Let the model name new pictures: `{command}`")
    return lines


def _study_file(found: Found) -> str:
    near = found.data_dir.parent / f"{found.data_dir.name}-study.yaml"
    return str(near) if near.is_file() else "my_study.yaml"


def _weak(rows: pd.DataFrame, accuracy: float) -> pd.DataFrame:
    """Classes that are recognised far less often than all pictures together, or have few pictures; two at most."""
    behind = rows[(rows["right"] < accuracy - WEAK) | ((rows["pictures"] < FEW) & (rows["right"] < accuracy))]
    return behind.sort_values("right").head(2)


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def left_out(n: int) -> str:
    return "1 file or folder" if n == 1 else f"{n} files and folders"


def shown(name: str) -> str:
    """A name of a file as one line: what cannot be printed, such as a line break, as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _code(line: str) -> Markup:
    """A line for HTML, what stands between backticks as <code>."""
    parts = [escape(part) for part in line.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


# ---- the page


def write_page(found: Found, thumbnail: Callable[[Path], str]) -> tuple[Path, str]:
    """Writes PAGE, TEXT and tables/always_wrong.csv into the study's folder; the page's path, and the text.

    thumbnail: gives the address of a small copy of a picture, '' where it cannot be read.
    """
    told = _told(found)
    with atomic(found.folder / "tables" / "always_wrong.csv") as part:
        write_csv(told["wrong"], part)
    pictures = [_picture(found, row, thumbnail) for row in told["wrong"].head(SHOWN).itertuples()]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "code": _code}
    page = environment.get_template("pictures.html.j2").render(told | {"pictures": pictures})
    text = as_text(told)
    for name, content in ((PAGE, page), (TEXT, text)):
        with atomic(found.folder / name) as part:
            part.write_text(content, encoding="utf-8")
    return found.folder / PAGE, text


def _told(found: Found) -> dict:
    """Everything the page says, as plain values."""
    wrong = always_wrong(found.predictions)
    mixed = same_picture(found.hashes)
    rows = classes(found)
    report = found.folder / "report" / "index.html"
    return {
        "question": QUESTION,
        "answer": answer(found),
        "expectation": expectation(found),
        "certainty": certainty(found),
        "bars": _bars(found),
        "classes": rows.to_dict("records"),
        "wrong": wrong,
        "n": found.card["n"],
        "mixed": mixed,
        "skipped": sorted(found.card["skipped"], key=lambda row: row["reason"].startswith(EXPECTED)),
        "left_out": left_out(len(found.card["skipped"])),
        "advice": advice(found, wrong, mixed, _weak(rows, found.accuracy.loc[found.best, "accuracy"])),
        "sentences": [test["sentence"] for test in found.tests.values()],
        "backbone": f"{found.model} ({WEIGHTS[found.init]})",
        "data_dir": str(found.data_dir),
        "report": "report/index.html" if report.is_file() else "",
    }


WEIGHTS = {
    "imagenet": "ImageNet weights",
    "file": "weights from a file",
    "shipped": "weights that ship with this project",
    "source": "trained in this study",
    "random": "random weights",
}


def _picture(found: Found, row, thumbnail: Callable[[Path], str]) -> dict[str, str]:
    path = found.data_dir / row.id
    return {
        "name": shown(row.id),
        "small": thumbnail(path),
        "link": path.absolute().as_uri(),
        "label": shown(row.label),
        "prediction": shown(row.prediction),
        "n": row.n,
    }


def _bars(found: Found) -> dict:
    """The differences as a drawing of 100 units: positions of zero, of the value and of the interval's ends."""
    tests = {name: test for name, test in found.tests.items() if np.isfinite(test["low"])}
    widest = max((abs(test[end]) for test in tests.values() for end in ("low", "high")), default=0.0)
    half = max(1.1 * widest, 0.03)

    def place(value: float) -> float:
        return round(50 + 50 * value / half, 2)

    rows = [
        {
            "name": f"circuit instead of {stats.PLAIN[name]}",
            "low": place(test["low"]),
            "value": place(test["value"]),
            "high": place(test["high"]),
            "says": "{:+.1f} of 100, between {:+.1f} and {:+.1f}".format(
                *(100 * test[key] for key in ("value", "low", "high"))
            ),
        }
        for name, test in tests.items()
    ]
    return {"rows": rows, "zone": [place(-stats.BOUND), place(stats.BOUND)], "end": f"{100 * half:.0f}"}


def as_text(told: dict) -> str:
    """The page as text of at most 100 columns."""
    parts = [_section(told["question"], told["answer"]), _section("What accuracy to expect", told["expectation"])]
    rows = [
        f"{shown(row['class'])}: {_of_100(row['right'])} of 100 recognised ({row['pictures']} pictures)"
        + (f"; the others mostly taken for {shown(row['taken_for'])}" if row["taken_for"] else "")
        for row in told["classes"]
    ]
    parts += [_section("Class by class", rows), _section("How sure is that", told["certainty"])]
    wrong = told["wrong"]
    names = [
        f"{shown(row.id)}: lies in {shown(row.label)}, taken for {shown(row.prediction)}"
        for row in wrong.head(NAMED).itertuples()
    ]
    more = [f"and {len(wrong) - NAMED} more, see the page"] if len(wrong) > NAMED else []
    parts.append(_section(f"Always wrong: {len(wrong)} of {told['n']} pictures", [*names, *more]))
    if told["mixed"]:
        both = [" = ".join(map(shown, ids)) for ids in told["mixed"][:NAMED]]
        parts.append(_section("The same picture in two classes", both))
    if told["skipped"]:
        left = [f"{shown(row['file'])}: {row['reason']}" for row in told["skipped"][:NAMED]]
        rest = len(told["skipped"]) - NAMED
        more = [f"and {rest} more, see the page"] if rest > 0 else []
        parts.append(_section(f"Left out: {told['left_out']}", [*left, *more]))
    parts.append(_section("What to do next", told["advice"]))
    return "\n\n".join(parts) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    """A heading and a list; a command, between backticks at the end of a line, stands unbroken for itself."""
    listed = []
    for line in lines:
        words, _, command = line.partition("`")
        options = {"initial_indent": "  - ", "subsequent_indent": "    ", "break_on_hyphens": False}
        listed.append(textwrap.fill(words, 100, break_long_words=False, **options))
        listed += [f"      {command.rstrip('`')}"] if command else []
    return "\n".join([title, "-" * len(title), *listed])
