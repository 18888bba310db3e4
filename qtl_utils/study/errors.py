"""What is wrong with settings, in one sentence that names the key and what was expected."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


class StudyError(ValueError):
    """A study file that cannot be used; the message is one sentence for the user."""


def checked(model: type[Settings], values: Mapping[str, Any]) -> Settings:
    """`model` with `values` that were set by hand; StudyError says in one sentence what is wrong with them."""
    try:
        return model.model_validate(dict(values), strict=False)
    except ValidationError as error:
        raise StudyError(first_error(error)) from None


EXPECTED = {  # by the start of pydantic's name of the error
    "missing": "this key is needed and missing",
    "int_": "expected a whole number",
    "float_": "expected a number",
    "finite_number": "expected a number",
    "string_too_short": "expected some text",
    "string_too_long": "expected at most {max_length} characters",
    "string_pattern": "expected letters, digits, '.', '_' or '-', beginning with a letter or digit",
    "string_": "expected text",
    "list_": "expected a list such as [A, C]",
    "dict_": "expected keys with values",
    "model_": "expected keys with values",
    "too_short": "expected at least {min_length} {entries}",
    "too_long": "expected at most {max_length} entries",
    "greater_than_equal": "expected at least {ge:g}",
    "greater_than": "expected more than {gt:g}",
    "less_than_equal": "expected at most {le:g}",
    "less_than": "expected less than {lt:g}",
    "literal_error": "expected {expected}",
}


def first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part)[:60] for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        field, colon, _ = message.partition(": ")
        below = bool(colon) and " " not in field  # 'variants: ...' of the section 'runs.heads'
        return f"{key}{'.' if key and below else ': ' if key else ''}{message}"
    expected = next((text for kind, text in EXPECTED.items() if first["type"].startswith(kind)), message)
    context = first.get("ctx", {})
    expected = expected.format(**context, entries="entry" if context.get("min_length") == 1 else "entries")
    if first["type"] == "missing":
        return f"{key}: {expected}"
    given = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{key}: {expected}, got {given if len(given) < 80 else given[:77] + '...'}"
