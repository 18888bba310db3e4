"""About how long the run of a study of pictures still takes, said now and then while its steps run."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from qtl_utils.study.steps import Step

EVERY = 15.0  # seconds between two lines
PER_PICTURE = {"squeezenet1_1": 0.15, "tiny_resnet": 0.002, "tiny_vit": 0.002}  # seconds of features, on one core
OTHERS = 0.6  # of networks like resnet18
PER_UPDATE = 0.00003  # seconds of one training step of one head
NOTEBOOKS = {"01_dataset_preparation": 30.0, "02_train_variant": 12.0, "07_results": 25.0}  # without what is above
REPORT = 20.0  # seconds


def expected(steps: list[Step], n: int) -> dict[str, float]:
    """About how many seconds each step, by its executed notebook, and the report take for n pictures."""
    return {step.executed.as_posix(): _seconds(step, n) for step in steps} | {"report/index.html": REPORT}


def _seconds(step: Step, n: int) -> float:
    told = step.parameters
    start = NOTEBOOKS.get(step.notebook, 60 * step.minutes)
    if step.notebook == "01_dataset_preparation":
        per_picture = sum(PER_PICTURE.get(one["model"], OTHERS) for one in told["backbones"].values())
        return start + n * per_picture / told["threads"]
    if step.notebook == "02_train_variant":
        trainings = len(told["variants"]) * told["seeds"] * (1 + len(told["lr_grid"]["classical"]))
        return start + trainings * told["epochs"] * math.ceil(0.6 * n / told["batch_size"]) * PER_UPDATE
    return start


@contextlib.contextmanager
def told_now_and_then(
    folder: Path, seconds: Mapping[str, float], say: Callable[[str], None], every: float = EVERY
) -> Iterator[None]:
    """While the block runs, says every so often how many of the files in `seconds` are there, and what is left.

    seconds: file below `folder` -> how long it is expected to take. What is there at the beginning is not counted.
    """
    waiting = {file: one for file, one in seconds.items() if not (folder / file).is_file()}
    done = threading.Event()

    def watch() -> None:
        start = time.monotonic()
        finished, since = 0, start
        while not done.wait(every):
            there = [file for file in waiting if (folder / file).is_file()]
            if len(there) > finished:
                finished, since = len(there), time.monotonic()
            if len(there) < len(waiting):
                say(line(waiting, there, since - start, time.monotonic() - since))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def line(waiting: Mapping[str, float], there: Sequence[str], took: float, since: float) -> str:
    """What is said: how much is done, and what is left at the pace so far.

    there: the files of `waiting` that are finished, which took `took` seconds; since: seconds from then to now. The
    first of the others is the one that is being made; where it takes longer than expected, so will the rest.
    """
    planned = sum(waiting[file] for file in there)
    pace = took / planned if there and planned else 1.0
    now, *later = [one for file, one in waiting.items() if file not in there]
    pace = max(pace, 1.1 * since / now)
    return f"  {len(there)} of {len(waiting)} steps done, {in_words(pace * (now + sum(later)) - since)} left"


def steadily(items: Sequence, doing: str, say: Callable[[str], None], every: float = EVERY) -> Iterable:
    """The items; every so often, says how many there were and how long the others take."""
    start = said = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - said >= every:
            said = now
            left = (now - start) * (len(items) - number) / number
            say(f"  {doing}: {number} of {len(items)}, {in_words(left)} left")
        yield item


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"about {5 * math.ceil(seconds / 5)} s"
    return f"about {round(seconds / 60)} min"
