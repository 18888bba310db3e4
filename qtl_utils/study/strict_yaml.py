"""Reading YAML that anybody may have written: with limits, and errors of one sentence that name the line."""

from pathlib import Path
from typing import Any

import yaml
from yaml import YAMLError

LARGEST = 256_000  # bytes of a study file; the longest here has 6,000
MOST_VALUES = 10_000  # in a study, with every alias written out
DEEPEST = 20  # sections in sections


def read_file(path: Path) -> Any:
    """What the YAML file `path` says; YAMLError as of `read_yaml`."""
    with path.open("rb") as file:
        start = file.read(LARGEST + 1)
    try:
        return read_yaml(start.decode("utf-8", "strict" if len(start) <= LARGEST else "replace"))
    except UnicodeDecodeError as error:
        line = start[: error.start].count(b"\n") + 1
        raise YAMLError(f"line {line}: not readable as text; save the file as UTF-8") from None


def read_yaml(text: str) -> Any:
    """What YAML `text` says; YAMLError with one sentence that names the line where it cannot be read.

    Refuses keys that are given twice, and what would take long to read: large, deep and ever repeated content.
    """
    if len(text.encode(errors="replace")) > LARGEST:
        raise YAMLError(f"longer than {LARGEST // 1000} kB, too much for a study; shorten it")
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        raise YAMLError(f"the character {chr(error.character)!r} is not allowed in YAML; remove it") from None
    except yaml.MarkedYAMLError as error:
        raise _at(error.problem_mark or error.context_mark, f"not readable as YAML: {error.problem}") from None


def _at(mark: yaml.Mark, problem: str, mend: str = "mend or quote it") -> YAMLError:
    problem = " ".join(problem.split())
    return YAMLError(f"line {mark.line + 1}: {problem[:200]}{'...' * (len(problem) > 200)}; {mend}")


class _Loader(yaml.SafeLoader):
    """YAML with limits, in which a key that is given twice is an error, and every error tells its line."""

    def __init__(self, stream):
        super().__init__(stream)
        self.level = 0
        self.sizes = {}  # id of a finished node -> how many values, and how deep, aliases written out

    def compose_node(self, parent, index):
        event = self.peek_event()
        self.level += 1
        self.refuse(event.start_mark, len(self.sizes), self.level)
        node = super().compose_node(parent, index)
        self.level -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.sizes[id(node)] = self.measure(node)
        if id(node) not in self.sizes:
            raise _at(event.start_mark, f"'*{event.anchor}' stands in what it stands for", "remove it")
        self.refuse(event.start_mark, *self.sizes[id(node)])
        return node

    def measure(self, node):
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for item in node.value for part in item] if pairs else node.value
        values, deep = zip((0, 0), *(self.sizes[id(part)] for part in parts), strict=True)
        return 1 + sum(values), 1 + max(deep)

    def refuse(self, mark, values, deep):
        if deep > DEEPEST or values > MOST_VALUES:
            what = f"more than {DEEPEST} levels deep" if deep > DEEPEST else f"more than {MOST_VALUES} values"
            raise _at(mark, f"{what}, too much for a study", "shorten it")

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise _at(key.start_mark, f"the key '{key.value}' is given twice", "remove one")
            seen.add(key.value)
        return node

    def compose_scalar_node(self, anchor):
        node = super().compose_scalar_node(anchor)
        if any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise _at(node.start_mark, f"{node.value!r:.100} has letters that are not valid UTF-8", "rename it")
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except YAMLError:
            raise
        except Exception:  # dates, numbers and what tags make of text fail in many ways
            raise _at(node.start_mark, f"{str(node.value)!r:.100} is no {node.tag.rpartition(':')[2]}") from None
