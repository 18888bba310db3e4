"""Error messages that users meet, their causes and what mends them."""

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType, FunctionType, ModuleType

from torch import nn

from qtl_utils.doctor.findings import Finding
from qtl_utils.doctor.known_errors import CIRCUIT_LIBRARIES, HYBRID_OR_TEXT, KNOWN_ERRORS, PLACES, KnownError

OURS = str(Path(__file__).parents[1])
LIBRARIES = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), OURS)
UNKNOWN = "I do not know this one"


def short(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split()) or repr(error)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= length else text[: length - 3] + "..."


def explain(error: Exception) -> Finding:
    """The finding for an exception: its text, and cause and fix where the message is a known one.

    Messages that may mean anything count as known only where the traceback says that they were raised in a circuit, in
    a loss or the like. Where the message is not known, the finding names the user's own line that raised it.
    """
    message = f"{type(error).__name__}: {short(error)}"
    text = "\n".join(f"{type(e).__name__}: {e}" for e in _causes(error))
    trail = Trail.of(error)
    fitting = [known for known in KNOWN_ERRORS if re.search(known.pattern, text, re.MULTILINE)]
    for known in fitting:
        if not known.frames or trail.lies_in(known.frames):
            plain = known.plain and not trail.lies_in(HYBRID_OR_TEXT)
            cause, fix = known.plain if plain else (known.cause, known.fix)
            return Finding("fail", message, cause, fix, "forward", known.section)
    cause, fix = _unknown(trail) if trail.frames else _unknown_text(fitting)
    return Finding("fail", message, cause, fix, "forward")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__


def _unknown(trail: "Trail") -> tuple[str, str]:
    """Cause and fix where no row holds: the user's own line, and what to look at next."""
    if trail.own is None:
        return f"{UNKNOWN}, and no line of yours raised it", "model(images) by itself, and read the traceback"
    file, number, function, line = trail.line
    cause = f"{UNKNOWN}; your line that raised it is {file}, line {number}, in {function}"
    local = [
        name for name, value in trail.own.f_locals.items() if not callable(value) and type(value) is not ModuleType
    ]
    values = [name for name in dict.fromkeys(re.findall(r"(?<![\w.])[A-Za-z_]\w*", line)) if name in local]
    shapes = f"for v in [{', '.join(values)}]: print(type(v), getattr(v, 'shape', ''), getattr(v, 'dtype', ''))"
    fix = f"{shapes if values else 'breakpoint()'} before that line"
    if trail.lies_in("a circuit"):
        fix += "; then the circuit by itself, with one sample"
    return f"{cause}: {line}" if line else cause, fix


def _unknown_text(fitting: list[KnownError]) -> tuple[str, str]:
    """Cause and fix where there is no traceback, and the text may mean anything; `fitting` are rows that need one."""
    cause = f"{UNKNOWN} from its text alone"
    fix = "explain(error) within 'except Exception as error:', which sees the line"
    if not fitting:
        return cause, fix
    place = fitting[0].frames.split(" or ")[0]
    return f"{cause}; raised in {place} it says: {fitting[0].cause}", f"{fix}; then {fitting[0].fix}"


@dataclass(frozen=True)
class Trail:
    """The frames of a traceback, outermost first, with their line numbers: where was it raised, and in whose code?

    Those of the exceptions that it was raised from follow.
    """

    frames: tuple[tuple[FrameType, int], ...]

    @classmethod
    def of(cls, error: BaseException) -> "Trail":
        return cls(tuple(frame for e in _causes(error) for frame in traceback.walk_tb(e.__traceback__)))

    def lies_in(self, places: str) -> bool:
        """Whether it was raised in one of the places, as `KnownError.frames` names them."""
        return not self.places.isdisjoint(places.split(" or "))

    @cached_property
    def depth(self) -> int:
        """How many frames there are up to the user's own innermost one."""
        return max((i for i, (frame, _) in enumerate(self.frames, 1) if not _of_library(frame)), default=0)

    @property
    def own(self) -> FrameType | None:
        """The user's own innermost frame."""
        return self.frames[self.depth - 1][0] if self.depth else None

    @property
    def line(self) -> tuple[str, int, str, str]:
        """The user's own line: file without folders, number, function and text."""
        frame, number = self.frames[self.depth - 1]
        file = frame.f_code.co_filename
        text = linecache.getline(file, number, frame.f_globals).strip()
        cell = "ipykernel" in file or file.startswith("<ipython")
        return "a notebook cell" if cell else Path(file).name, number, frame.f_code.co_name, text[:100]

    @cached_property
    def places(self) -> set[str]:
        if not self.frames:
            return {"no traceback"}
        names = [_name(frame) for frame, _ in self.frames]
        above, below = names[: self.depth], names[self.depth :]
        found = {place for place, pattern in PLACES.items() if any(re.match(pattern, name) for name in below)}
        if any(name.startswith("pennylane.workflow.") for name in above):
            found.add("a circuit's function")
        if self.own is not None and ".grad" in self.line[-1]:
            found.add("a line with .grad")
        if any(_of_circuits(value) for value in self._in_use()):
            found.add("a hybrid model")
        return found

    def _in_use(self) -> Iterator[object]:
        """What the user's own function mentions, modules of torch that were running, and the model of who ran them."""
        for frame, _ in self.frames:
            running = frame.f_locals.get("self")
            if frame.f_code.co_name == "forward" or _name(frame).startswith("torch."):
                yield running
            yield getattr(running, "__dict__", {}).get("model")
        if self.own is not None:
            code = self.own.f_code
            for name in {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars}:
                yield self.own.f_locals.get(name, self.own.f_globals.get(name))


def _of_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<"):  # typed in, or made by a library
        return not file.startswith("<ipython") and frame.f_globals.get("__name__") != "__main__"
    return any(part in file for part in LIBRARIES)


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def _of_circuits(value: object) -> bool:
    """Whether it is, or holds, something of a library of circuits."""
    kind = type(value)
    if kind is ModuleType:
        return re.match(CIRCUIT_LIBRARIES, value.__name__) is not None
    if issubclass(kind, nn.Module):
        return any(_made_for_circuits(part) for m in value.modules() for part in (m, *vars(m).values()))
    return any(map(_made_for_circuits, value)) if kind in (list, tuple) else _made_for_circuits(value)


def _made_for_circuits(value: object) -> bool:
    kind = value if isinstance(value, (type, FunctionType)) else type(value)
    return re.match(CIRCUIT_LIBRARIES, str(kind.__module__)) is not None
