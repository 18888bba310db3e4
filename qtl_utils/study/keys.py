"""Every key of a study file, what it may hold and what it is when left out: made from the settings themselves."""

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel

from qtl_utils.study.config import Section
from qtl_utils.study.sections import NOTEBOOKS
from qtl_utils.study.study import StudyConfig

TITLE = """# Every key of a study file

What a study file may say, made from the settings that read it. A key that is not here, or a value of another kind, is
refused with a sentence that names it before anything is computed. `./run_all.sh names` lists the variants, ansätze,
data sets and models that may be named, your own included. `NAME` stands for a name of your choice, `NUMBER` for a place
in a list. A section `defaults` may give keys of runs once for all runs.
"""


def page() -> str:
    """The reference of every key as Markdown: a heading for each section, and below it a row for each of its keys."""
    paths: dict[type[Section], list[str]] = {}
    for path, section in every_section():
        paths.setdefault(section, []).append(path)
    parts = [TITLE]
    for section, of in paths.items():
        title = " and ".join(of) or "The file itself"
        parts.append(f"## {title}\n\n{_about(section)}{_shown_by(of[0])}\n\n{_table(section)}\n")
    return "\n".join(parts)


def _about(section: type[Section]) -> str:
    return (inspect.getdoc(section) or "").split("\n\n")[0].replace("\n", " ")


def every_section() -> Iterator[tuple[str, type[Section]]]:
    """Each part of a study file with its path in it, such as `runs.NAME.lr_grid`, those above before those below."""
    yield "", StudyConfig
    yield from _below("", StudyConfig)


def _below(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    for key, field in section.model_fields.items():
        for step, inner in _sections_in(field.annotation):
            name = ".".join(part for part in (path, key, step) if part)
            yield name, inner
            yield from _below(name, inner)


def _sections_in(annotation: Any, step: str = "") -> list[tuple[str, type[Section]]]:
    """The sections that an annotation speaks of, and how one gets to them: by a NAME, by the NUMBER in a list."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return [(step, annotation)]
    origin = getattr(annotation, "__origin__", None)
    step = {dict: "NAME", list: "NUMBER"}.get(origin, step)
    return [found for inner in get_args(annotation) for found in _sections_in(inner, step)]


def _shown_by(path: str) -> str:
    """Which notebooks look at a section of the study file."""
    files = [f"`{row.file}`" for row in NOTEBOOKS if row.section and row.section == path]
    return f" For {', '.join(files)}; `{path}: null` leaves it out." if files else ""


def _table(section: type[Section]) -> str:
    rows = ["| key | may be | left out | what it is |", "| --- | --- | --- | --- |"]
    schema = section.model_json_schema()
    for key in section.model_fields:
        told = [f"`{key}`", may_be(schema["properties"][key]), _left_out(section, key), description(section, key)]
        rows.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in told)} |")
    return "\n".join(rows)


# ---- one key


def description(section: type[Section], key: str) -> str:
    """What the comment beside a key says; where there is none, what is said of the same key in another section.

    A key that is itself a section is told in the words of that section.
    """
    if own := _comments(section).get(key):
        return own
    for _, inner in _sections_in(section.model_fields[key].annotation):
        return _about(inner)
    others = (_comments(other).get(key) for _, other in every_section())
    return next(filter(None, others), "")


def _left_out(section: type[Section], key: str) -> str:
    field = section.model_fields[key]
    if field.is_required():
        return "must be given"
    value = field.default
    if isinstance(value, Section):
        return "as below, with what is set there"
    return f"`{json.dumps(_plain(value), ensure_ascii=False)}`"


def _plain(value: Any) -> Any:
    """A default as it would be written in a study file."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def may_be(schema: dict[str, Any]) -> str:
    """A JSON schema of one value in words."""
    if "anyOf" in schema:
        words = list(dict.fromkeys(may_be(part) for part in schema["anyOf"]))
        words = [word for word in words if not (word == "a whole number" and "a number" in words)]
        return " or ".join(words)
    if "$ref" in schema or "allOf" in schema:
        return "keys of its own, below"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        return f"a list; each: {may_be(schema['items'])}"
    if kind == "object":
        inner = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        told = [may_be(each) for each in inner if isinstance(each, dict)]
        return f"names; each: {told[0]}" if told else "names and values"
    plain = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    return plain.get(kind, "`null`" if kind == "null" else "anything") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, under = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = {"at least": low, "over": above, "at most": high, "under": under}
    words = [f"{text} {bound:,}" for text, bound in bounds.items() if bound is not None]
    return f", {' and '.join(words)}" if words else ""


# ---- comments


@cache
def _comments(section: type[Section]) -> dict[str, str]:
    """Key -> the comment on the last line of its definition, of `section` and of the classes it is made from."""
    found = {}
    for base in reversed(section.__mro__):
        module = inspect.getmodule(base)
        if issubclass(base, Section) and module is not None:
            found |= {key: text for key, text in _module_comments(module).get(base.__name__, {}).items() if text}
    return found


@cache
def _module_comments(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class -> its annotated names -> the comment where the definition ends, '' where there is none."""
    source = inspect.getsource(module)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: {
            item.target.id: by_line.get(item.end_lineno, "")
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for node in classes
    }
