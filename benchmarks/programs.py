"""Programs that train heads, ours and its peers, each in a process of its own that waits between trainings.

A `Worker` is such a process, with its own number of threads. It takes one job after another, a line of JSON each, runs
it once and says what came out; an empty job runs the last one again. So that programs can take turns, and a slow moment
of the machine meets all alike.
"""

import json
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from statistics import median

import timing

OURS, OURS_64 = "ours", "ours, float64"


class RefusedError(Exception):
    """Why a job was not done: something is not installed, or it took too long."""


def shipped_data(folder) -> dict:
    """The part of a job that names the data: ants and bees of 2019 as features that ship, as published."""
    from qtl_utils.study.config import BackboneConfig, DataConfig

    data = DataConfig(dataset="ants_bees", protocol="as_published")
    return data_of(folder, data, BackboneConfig(model="squeezenet1_1", init="shipped"))


def data_of(folder, data, backbone) -> dict:
    return {"folder": str(folder), "data": data.model_dump_json(), "backbone": backbone.model_dump_json()}


# ---- in the worker ---------------------------------------------------------------------------------------------------


@cache
def open_task_inputs(folder: str, data: str, backbone: str):
    """Inputs of the study, from its sections as JSON; what is in `folder` is not made again."""
    from qtl_utils.study.config import BackboneConfig, DataConfig
    from qtl_utils.training.inputs import open_inputs

    sections = DataConfig.model_validate_json(data), BackboneConfig.model_validate_json(backbone)
    return open_inputs(Path(folder), *sections)


def prepare(job: dict):
    """A function that trains the heads of `job`, and one that reads last-epoch selection accuracies (R,) from it."""
    from qtl_utils.study.config import TrainConfig

    inputs = open_task_inputs(job["folder"], job["data"], job["backbone"])
    dtype = "float64" if job["program"] == OURS_64 else "float32"
    config = TrainConfig(dtype=dtype, **job["settings"])
    return (ours if job["program"] in (OURS, OURS_64) else peer)(job["program"], job["variant"], inputs, config)


def ours(program: str, variant: str, inputs, config):
    import torch

    from qtl_utils.training.fits import make_replicas
    from qtl_utils.training.variants import candidates, fit_frozen

    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, candidates(variant, config))

    def train():
        return fit_frozen(variant, inputs, config, replicas, torch.device("cpu"))

    return train, lambda fit: fit.history[:, -1, 1, 1]


def peer(program: str, variant: str, inputs, config):
    import jax_peers

    task = make_task(variant, inputs, config)
    train = jax_peers.make_training(jax_peers.head(variant, program, config), task)
    return train, lambda found: found[0][:, -1, 3]


def make_task(variant: str, inputs, config):
    """The same initial weights and orders of samples as `fit_heads` uses, for a program with JAX."""
    import jax_peers
    import numpy as np

    from qtl_utils.models.heads import make_head
    from qtl_utils.training.fits import batches_of, random_orders, selection_subset
    from qtl_utils.training.variants import head_settings

    if inputs.splits.n_splits > 1 or config.lr_classical != config.lr_quantum:
        raise ValueError("the programs with JAX know one split and one learning rate")
    settings = head_settings(inputs, config)
    heads = [dict(make_head(variant, settings, seed).named_parameters()) for seed in config.seed_range]
    train = inputs.splits.indices(0, "train")
    orders = [random_orders(train, seed, config.epochs) for seed in config.seed_range]
    return jax_peers.Task(
        table=inputs.features.numpy(),
        labels=inputs.data.labels,
        selection=inputs.splits.indices(0, selection_subset(inputs.splits)),
        weights={name: np.stack([head[name].detach().numpy() for head in heads]) for name in heads[0]},
        batches=np.stack([[batches_of(row, config.batch_size) for row in order] for order in orders]),
        config=config,
    )


def serve(threads: int) -> None:
    """Does the jobs that come in, one after another."""
    timing.pin_threads(threads)
    import os

    os.environ["QTL_BATCH"] = "1"  # no progress bars
    from qtl_utils.study.environment import PeakMemory

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints is no answer
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job:
                train, accuracies = prepare(job)
            with PeakMemory() as peak:
                start = time.perf_counter()
                found = train()
                seconds = time.perf_counter() - start
        except ModuleNotFoundError as error:
            answer = {"refused": f"not installed ({error.name})"}
        else:
            answer = {"seconds": seconds, "memory_bytes": peak.bytes, "accuracies": accuracies(found).tolist()}
        print(json.dumps(answer), file=answers, flush=True)


# ---- the other side --------------------------------------------------------------------------------------------------


class Worker:
    """A process that trains; a context manager, which ends it."""

    def __init__(self, threads: int):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __call__(self, job: dict | None = None, limit: float = 600) -> dict:
        """Does `job`, or the last one again, and returns seconds, memory_bytes and accuracies.

        Raises RefusedError where that takes over `limit` seconds or something is not installed.
        """
        clock = threading.Timer(limit, self.process.kill)
        clock.start()
        try:
            self.process.stdin.write(json.dumps(job or {}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            in_time = clock.is_alive()
            clock.cancel()
        if not line:
            raise RefusedError("ended by itself" if in_time else f"over {limit:.0f} s")
        answer = json.loads(line)
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        return answer


def measure(workers: dict[str, Worker], jobs: dict[str, dict], repeats: int) -> tuple[dict[str, dict], dict[str, str]]:
    """What every program needs for its job, by name, and why some were left out.

    `seconds` are medians of `repeats`, the programs taking turns; `compile_seconds` is what the first training takes
    over that: tracing and compiling, of ours loading what is compiled once on every machine.
    """
    first, left_out = {}, {}
    for name, job in jobs.items():
        try:
            first[name] = workers[name](job)
        except RefusedError as reason:
            left_out[name] = str(reason)
    seconds = {name: [] for name in first}
    for _ in range(repeats):
        for name in first:
            seconds[name].append(workers[name]()["seconds"])
    found = {}
    for name, values in seconds.items():
        middle = median(values)
        spread = {"least": min(values), "most": max(values)}
        compiling = max(first[name]["seconds"] - middle, 0.0)
        found[name] = first[name] | spread | {"seconds": middle, "compile_seconds": compiling}
    return found, left_out


if __name__ == "__main__":
    serve(int(sys.argv[1]))
