"""Two studies side by side on one page: what each answers, where they differ, and what was different about them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from qtl_utils.results import answer, report_figures
from qtl_utils.results.report_tables import markdown
from qtl_utils.results.verify import verify
from qtl_utils.study.paths import study_dir

KEYS = ["dataset", "backbone", "settings", "protocol", "variant"]


def find(name: str, results_dir: str | None) -> Path:
    """The results folder that a user names, a path or a study in results/; FileNotFoundError where it has no tables."""
    for folder in (Path(name), study_dir(name, results_dir)):
        if (folder / "tables").is_dir():
            return folder.resolve()
    raise FileNotFoundError(f"--compare: '{name}' has no results; give the name of a finished study or its folder")


def lay_out(pages: Path, folders: tuple[Path, Path]) -> None:
    """Writes the page that compares two results folders, its figures and its tables into `pages`."""
    names = [folder.name for folder in folders]
    if names[0] == names[1]:
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    files = [folder / "tables" / "comparisons.csv" for folder in folders]
    found = [answer.read(file) if file.is_file() else None for file in files]
    ends = answer.limits(*found) if all(each is not None and len(answer.shown(each)) for each in found) else None
    sides = [_side(pages / "extra", place, each, ends) for place, each in enumerate(found)]
    parts = [f"# {names[0]} and {names[1]}", "::::{container} beside"]
    for name, side in zip(names, sides, strict=True):
        parts += [":::{container} side", f"**{name}**", side, ":::"]
    parts += ["::::", *_differences(folders, names, pages / "extra" / "tables"), *_settings(folders, names)]
    (pages / "index.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _side(extra: Path, place: int, comparisons: pd.DataFrame | None, ends: tuple[float, float] | None) -> str:
    """What one study answers: two sentences and its figure."""
    if comparisons is None:
        return "This study compares no variants."
    said = " ".join(answer.sentences(comparisons))
    if (drawn := answer.figure(comparisons, ends)) is None:
        return said
    (extra / "tables").mkdir(parents=True, exist_ok=True)
    comparisons.to_csv(extra / "tables" / f"comparisons-{place}.csv", index=False)
    image = f"figures/answer-{place}.png"
    report_figures.save_small(answer.png(drawn), extra / image)
    told = report_figures.Told(answer.CAPTION, answer.in_words(comparisons), f"comparisons-{place}.csv")
    return f"{said}\n\n{report_figures.figure(image, told)}"


def _differences(folders: tuple[Path, Path], names: list[str], target: Path) -> list[str]:
    """Conclusions that differ, and mean accuracies beside each other."""
    found = verify(folders[1], folders[0])
    differ = found.conclusions[~found.conclusions["same"]]
    n = len(found.conclusions)
    parts = [
        "## What they conclude",
        f"{n - len(differ)} of {n} conclusions of {names[0]} are drawn in {names[1]} too.",
    ]
    if len(differ):
        shown = pd.DataFrame({"about": differ.index})
        for name, side in zip(names, ("reference", "here"), strict=True):
            shown[name] = (differ[side] + differ[f"{side}_interval"]).to_numpy()
        parts.append(markdown(shown))
    both = accuracies(folders, names)
    if len(both):
        target.mkdir(parents=True, exist_ok=True)
        both.to_csv(target / "accuracies.csv", index=False)
        told = 'Test accuracy after the last epoch (<a href="tables/accuracies.csv" download>CSV</a>).'
        parts += ["## How often they are right", told, markdown(both)]
    return parts


def accuracies(folders: tuple[Path, Path], names: list[str]) -> pd.DataFrame:
    """Mean accuracies of what both studies trained, and their difference in points."""
    files = [folder / "tables" / "accuracy.csv" for folder in folders]
    if not all(file.is_file() for file in files):
        return pd.DataFrame()
    read = [pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(KEYS, str)) for file in files]
    sides = [side.set_index(KEYS)["accuracy"].rename(name) for side, name in zip(read, names, strict=True)]
    both = pd.concat(sides, axis=1, join="inner").dropna()
    both["difference, points"] = (100 * (both[names[1]] - both[names[0]])).round(1)
    return both.reset_index()


def _settings(folders: tuple[Path, Path], names: list[str]) -> list[str]:
    """What was set differently, and what ran on another machine or with other versions."""
    told = []
    for title, file in (("What was set", "study.json"), ("What it ran on", "manifest.json")):
        paths = [folder / file for folder in folders]
        if not all(path.is_file() for path in paths):
            continue
        left, right = (_flat(json.loads(path.read_text(encoding="utf-8"))) for path in paths)
        left, right = ({k: v for k, v in side.items() if not k.startswith(_OWN)} for side in (left, right))
        keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]
        rows = [
            {"key": key} | {n: _said(s.get(key)) for n, s in zip(names, (left, right), strict=True)} for key in keys
        ]
        told += [f"## {title}", markdown(pd.DataFrame(rows)) if rows else "The same in both."]
    return told


_OWN = ("tables.", "notebook_seconds.", "name", "study", "description")  # of every run its own


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level: `runs.heads.seeds` -> 50."""
    found = {}
    for key, value in values.items():
        name = f"{above}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _said(value: Any) -> str:
    return "" if value is None else str(value)[:200]
