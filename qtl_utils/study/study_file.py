"""Reading a study file: defaults and overrides applied, and every mistake said in one sentence."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig
from qtl_utils.study.errors import StudyError, first_error
from qtl_utils.study.names import REAL_DEVICE, unknown_name
from qtl_utils.study.paths import PROJECT, user_path
from qtl_utils.study.sections import sections as notebook_sections
from qtl_utils.study.strict_yaml import YAMLError, read_file, read_yaml
from qtl_utils.study.study import StudyConfig


def load_study(file: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """The validated study in `file`, or of that name in `studies/`, with `overrides` applied.

    A key without dots (`seeds`, `data_dir`) is set in every entry that has it; `runs.heads.seeds` in one.
    Raises StudyError naming file and key.
    """
    path = find_study(file)
    content = _read(path)
    defaults = _section(content.pop("defaults", {}), "defaults", path)
    for key in defaults:
        if key not in RunConfig.model_fields:
            raise StudyError(f"{path}: defaults.{key}: {unknown_name('key', str(key), RunConfig.model_fields)}")
    if isinstance(content.get("runs"), dict):
        runs = content["runs"].items()
        content["runs"] = {name: defaults | _section(run, f"runs.{name}", path) for name, run in runs}
    for key, value in (overrides or {}).items():
        _override(content, key, value, path)
    if isinstance(content.get("extensions"), list):  # a file beside the study comes first
        content["extensions"] = [_beside(path, file) for file in content["extensions"]]
    try:
        return StudyConfig.model_validate(content, strict=False)
    except ValidationError as error:
        raise StudyError(f"{path}: {first_error(error)}") from None


def _beside(study: Path, file: Any) -> Any:
    if isinstance(file, str) and file.isprintable() and (near := study.resolve().parent / file).is_file():
        return str(near.relative_to(PROJECT) if near.is_relative_to(PROJECT) else near)
    return file


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path)
    except YAMLError as error:
        raise StudyError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected keys such as datasets, backbones and runs; see studies/smoke.yaml")
    return {"name": path.stem} | content


def _section(value: Any, key: str, path: Path) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise StudyError(
        f"{path}: {key}: expected keys with values, got {json.dumps(value, default=str, ensure_ascii=False)[:80]}"
    )


def find_study(file: str | Path) -> Path:
    """The path of a study given as a file or as a name in `studies/`; StudyError where there is none.

    A folder of pictures stands for the study file beside it.
    """
    known = _known()
    if str(file) in known:
        return known[str(file)]
    if root := pictures_folder(file):
        if (path := study_beside(root)).is_file():
            return path
        raise StudyError(f"there is no study of the pictures in '{file}' yet; ./run_all.sh {file} writes and runs one")
    try:
        path = user_path(file)
        exists = path.is_file()
    except OSError:  # a name that is too long for a file
        exists = False
    if not exists:
        raise StudyError(f"{unknown_name('study', str(file), known)}; or give the path of a .yaml file")
    return path


def _known() -> dict[str, Path]:
    return {path.stem: path for path in sorted((PROJECT / "studies").glob("*.yaml"))}


def pictures_folder(file: str | Path) -> Path | None:
    """The folder, absolute, that is given in the place of a study; None where a file or a name is given.

    It is looked up from the current folder, then from the project's.
    """
    if str(file) in ("", *_known()):
        return None
    path = os.path.expanduser(file)
    try:
        return next((Path(place) for place in (os.path.abspath(path), PROJECT / path) if os.path.isdir(place)), None)
    except ValueError:  # a name with a null byte
        return None


def study_beside(root: Path) -> Path:
    """Where the study of a folder of pictures is written: pictures-study.yaml beside pictures/."""
    return root.with_name(f"{root.name or 'pictures'}-study.yaml")


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`['seeds=5']` -> `{'seeds': 5}`; values are read as YAML."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise StudyError(f"--set {pair}: expected key=value, for example --set seeds=5")
        try:
            overrides[key] = read_yaml(value)
        except YAMLError as error:
            raise StudyError(f"--set {pair}: {error}") from None
    return overrides


def _override(content: dict, key: str, value: Any, path: Path) -> None:
    if "." in key or key in StudyConfig.model_fields:
        *parents, last = key.split(".")
        if parents and parents[0] in notebook_sections():  # one that the file leaves at its defaults
            content.setdefault(parents[0], {})
        for parent in parents:
            content = content.get(parent) if isinstance(content, dict) else None
        if not isinstance(content, dict):
            raise StudyError(f"{path}: --set {key}: there is no such section in the study")
        content[last] = value
        return
    sections = {"datasets": DataConfig, "backbones": BackboneConfig, "runs": RunConfig}
    holders = [section for section, model in sections.items() if key in model.model_fields]
    if not holders:
        fields = {field for model in sections.values() for field in model.model_fields}
        raise StudyError(f"{path}: --set {key}: {unknown_name('key', key, fields)}")
    for section in holders:
        entries = content.get(section)
        for entry in entries.values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                entry[key] = value


def check_names(study: StudyConfig, file: str | Path, registries: Mapping[str, Collection[str]]) -> None:
    """Raises StudyError where `study` names a variant, ansatz, encoding, data set or model that is unknown.

    `registries`: known names by kind ('variant', 'ansatz', 'encoding', 'dataset', 'model').
    """
    uses = [(f"datasets.{k}.dataset", "dataset", d.dataset) for k, d in study.datasets.items()]
    for key, backbone in study.backbones.items():
        uses.append((f"backbones.{key}.model", "model", backbone.model))
        uses.append((f"backbones.{key}.source_dataset", "dataset", backbone.source_dataset))
    for key, run in study.runs.items():
        uses.append((f"runs.{key}.ansatz", "ansatz", run.ansatz))
        uses.append((f"runs.{key}.encoding", "encoding", run.encoding))
        uses.append((f"runs.{key}.simulator", "simulator", run.simulator))
        uses.append((f"runs.{key}.diff_method", "differentiation method", run.diff_method))
        if not (run.device_name or "").startswith(REAL_DEVICE):
            uses.append((f"runs.{key}.device_name", "device", run.device_name))
        uses.extend((f"runs.{key}.variants", "variant", variant) for variant in run.variants)
    for key in ("gradients", "simulators", "attribution", "repair", "noise"):
        if (section := getattr(study, key)) is not None:
            uses += [(f"{key}.{kind}", kind, getattr(section, kind)) for kind in ("ansatz", "encoding")]
    if study.gradients is not None:
        uses.extend(("gradients.variants", "variant", name) for name in study.gradients.variants)
        uses.extend(("gradients.variance_ansatze", "ansatz", name) for name in study.gradients.variance_ansatze)
    if study.attribution is not None:
        for key in ("variants", "rate_variants", "fraction_variants"):
            uses.extend((f"attribution.{key}", "variant", name) for name in getattr(study.attribution, key))
    if study.published is not None:
        uses.extend(("published.variants", "variant", name) for name in study.published.variants)
    if study.noise is not None:
        for key in ("devices", "train_devices"):
            uses.extend((f"noise.{key}", "device", name) for name in getattr(study.noise, key))
    if study.simulators is not None:
        uses.extend(("simulators.networks", "model", name) for name in study.simulators.networks)
    if study.troubleshooting is not None:
        uses.extend(("troubleshooting.confusion", "case", name) for name in study.troubleshooting.confusion)
    for key, kind, name in uses:
        if name is not None and name not in registries[kind]:
            raise StudyError(f"{file}: {key}: {unknown_name(kind, name, registries[kind])}")
