"""The reference of every study key is complete, and says of each key what it may hold."""

import re

import pytest
from pydantic import TypeAdapter

from qtl_utils.study import keys
from qtl_utils.study.config import LrGrid, Section, TrainConfig
from qtl_utils.study.study import StudyConfig

SECTIONS = list(keys.every_section())
PAGE = keys.page()


def all_sections(section=StudyConfig):
    """Every section class that pydantic meets in a study, found another way: in its JSON schema."""
    return {"StudyConfig", *section.model_json_schema()["$defs"]}


def test_no_section_is_left_out():
    assert {section.__name__ for _, section in SECTIONS} == all_sections()


@pytest.mark.parametrize(("path", "section"), SECTIONS, ids=[path or "file" for path, _ in SECTIONS])
def test_every_key_has_a_row_that_says_what_it_is(path, section):
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    (title,) = [title for title in titles if (path or "The file itself") in title.split(" and ")]
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", part, re.MULTILINE))
    assert list(rows) == list(section.model_fields)
    for key, told in rows.items():
        assert all(cell.strip() for cell in re.split(r"(?<!\\)\|", told)), key


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (int | None, "a whole number or `null`"),
        (list[float], "a list; each: a number"),
        (dict[str, int], "names; each: a whole number"),
        (int | float, "a number"),
    ],
)
def test_a_kind_of_value_is_told_in_words(annotation, words):
    assert keys.may_be(TypeAdapter(annotation).json_schema()) == words


def test_bounds_and_defaults_are_those_of_the_settings():
    assert "| `n_qubits` | a whole number, at least 1 and at most 24 | `4` |" in PAGE
    assert '| `variants` | a list; each: text | `["A", "C"]` |' in PAGE


def test_a_comment_stays_with_its_class():
    assert keys.description(LrGrid, "quantum") == "for variants with a circuit"
    assert keys.description(TrainConfig, "angle_init") == "standard deviation of the initial angles, radians"


def test_a_key_without_a_comment_is_told_as_in_another_section():
    class Own(Section):
        angle_init: float = 1.0
        other: int = 0

    assert keys.description(Own, "angle_init") == keys.description(TrainConfig, "angle_init")
    assert keys.description(Own, "other") == ""
