"""YAML that was made to break a reader is refused at once, in one sentence that names the line."""

import pytest

from qtl_utils.study.strict_yaml import DEEPEST, LARGEST, MOST_VALUES, YAMLError, read_file, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(15))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(2 * DEEPEST))
WRONG = [
    ("a: 1\nday: 2024-13-45", "line 2: '2024-13-45' is no timestamp; mend or quote it"),
    ("a: !!int abc", "line 1: 'abc' is no int"),
    ("a: !!bool maybe", "line 1: 'maybe' is no bool"),
    ("a: " + "9" * 5000, "line 1: '9999"),
    ("a: 1\nb: !foo 3", "line 2: not readable as YAML: could not determine a constructor for the tag '!foo'"),
    ("a: !!python/object/apply:os.system ['true']", "line 1: not readable as YAML: could not determine a constructor"),
    ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice; remove one"),
    ("a: &a [*a]", "line 1: '*a' stands in what it stands for"),
    ("a: *b", "line 1: not readable as YAML: found undefined alias 'b'"),
    ("? [a, b]\n: 1", "line 1: not readable as YAML: found unhashable key"),
    (r'a: "\ud800"', "line 1: '\\ud800' has letters that are not valid UTF-8"),
    ("a: \x01", "the character '\\x01' is not allowed in YAML"),
    ("a: [", "line 1: not readable as YAML: expected the node content"),
    ("a: 1\n---\nb: 2", "line 2: not readable as YAML"),
    (LAUGHS, "values, too much for a study; shorten it"),
    (CHAIN, "levels deep, too much for a study; shorten it"),
    ("a: " + "[" * 10_000, f"line 1: more than {DEEPEST} levels deep"),
    ("- " * 10_000, f"line 1: more than {DEEPEST} levels deep"),
    ("{" + ", ".join(f"k{i}: 1" for i in range(MOST_VALUES)) + "}", f"line 1: more than {MOST_VALUES} values"),
    ("#" * (LARGEST + 1), "longer than 256 kB, too much for a study"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[expected[:40] for _, expected in WRONG])
def test_what_cannot_be_read_is_told_in_one_sentence(text, expected):
    with pytest.raises(YAMLError) as caught:
        read_yaml(text)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def test_merged_keys_may_be_given_again_at_any_depth():
    text = "b: &b {x: 1}\nr: {q: {s: &s {<<: *b, x: 2}}}\ny: {<<: *s, x: 3}\nz: {<<: [*s, *b]}"
    read = read_yaml(text)
    assert (read["r"]["q"]["s"]["x"], read["y"]["x"], read["z"]["x"]) == (2, 3, 2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: käse".encode("latin-1"), "line 2: not readable as text; save the file as UTF-8"),
        (b"\x00\xff\xfe", "line 1: not readable as text"),
        ("ä".encode() * LARGEST, "longer than 256 kB"),
    ],
)
def test_a_file_that_is_no_text_or_too_long_is_refused(tmp_path, content, expected):
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(YAMLError, match=expected):
        read_file(tmp_path / "study.yaml")
