"""How the time of training grows with seeds, qubits and batch: heads A of ours and of the program with JAX.

    .venv/bin/python benchmarks/bench_scaling.py     two to five minutes; needs jax, see requirements.txt

Every number is seconds per seed and epoch, float32. A point that takes too long is left out, and the table says so.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import programs
import timing

PROGRAMS = (programs.OURS, "JAX")
COMMON = {"seeds": 100, "n_qubits": 4, "batch_size": 4}
PANELS = {"seeds": (1, 10, 100, 1000), "n_qubits": (2, 4, 6, 8, 10, 12), "batch_size": (4, 16, 64, 256)}
LABELS = {"seeds": "seeds", "n_qubits": "qubits", "batch_size": "samples in a batch"}
LIMIT, LIMIT_FIRST = 20.0, 60.0  # seconds of a training, and of the first one, which compiles


def settings_of(name: str, value: int) -> dict:
    """What is trained at a point of a panel: many seeds for fewer epochs, large circuits with fewer of both."""
    settings = COMMON | {"epochs": 10, name: value}
    if settings["seeds"] > 100:
        settings |= {"epochs": 3}
    if settings["n_qubits"] > 6:
        settings |= {"epochs": 2, "seeds": 10}
    return settings


def points(common: dict, threads: int, repeats: int):
    """Rows of the table, one a program and point; `common`: folder, data and backbone of every job."""
    rows, known = [], {}
    for program in PROGRAMS:
        worker = programs.Worker(threads)
        for panel, values in PANELS.items():
            for value in values:
                settings = settings_of(panel, value)
                key = program, *settings.items()
                if key not in known:
                    job = common | {"program": program, "variant": "A", "settings": settings}
                    known[key] = found = point(worker, job, repeats)
                    print(f"{program:5} {panel} {value}: {found}", flush=True)
                    if "left_out" in found:  # a worker that took too long was ended
                        worker.close()
                        worker = programs.Worker(threads)
                rows.append({"panel": panel, "value": value, "program": program} | settings | known[key])
        worker.close()
    return rows


def point(worker, job: dict, repeats: int) -> dict:
    """Seconds per seed and epoch, and seconds that compiling takes; or why they are missing."""
    try:
        first = worker(job, LIMIT_FIRST)["seconds"]
        seconds = sorted(worker(limit=LIMIT)["seconds"] for _ in range(repeats))[repeats // 2]
    except programs.RefusedError as reason:
        return {"left_out": str(reason)}
    trained = job["settings"]["seeds"] * job["settings"]["epochs"]
    return {"seconds_per_seed_epoch": seconds / trained, "compile_seconds": max(first - seconds, 0.0)}


def draw(frame):
    """Milliseconds per seed and epoch, a panel for each of seeds, qubits and batch."""
    import matplotlib as mpl

    from qtl_utils.results import plots

    looks = {"ours": (plots.VERMILION, "o"), "JAX": (plots.BLACK, "s")}
    names = {"ours": "statevector, fit_heads", "JAX": "JAX: vmap, scan, jit"}
    with mpl.rc_context(plots.STYLE):
        figure = plots.Figure(figsize=(plots.WIDTH, 3.2))
        axes = figure.subplots(1, len(PANELS))
        for axis, (panel, cells) in zip(axes, frame.groupby("panel", sort=False), strict=True):
            for program, rows in cells.dropna(subset="seconds_per_seed_epoch").groupby("program", sort=False):
                colour, marker = looks[program]
                times = 1e3 * rows.seconds_per_seed_epoch
                axis.plot(rows.value, times, color=colour, marker=marker, ms=5, label=names[program])
            axis.set(yscale="log", xlabel=LABELS[panel])
            if panel != "n_qubits":
                axis.set_xscale("log")
            axis.set_xticks(PANELS[panel], [f"{value:,}" for value in PANELS[panel]])
            axis.minorticks_off()
        axes[0].set_ylabel("milliseconds per seed and epoch")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return figure


def report(common: dict, threads: int, repeats: int, folder: Path) -> None:
    import pandas as pd

    from qtl_utils.results import plots

    frame = pd.DataFrame(points(common, threads, repeats))
    frame["threads"] = threads
    frame = frame.reindex(columns=[*frame.columns.drop("left_out", errors="ignore"), "left_out"])
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "study_scaling.csv", index=False, float_format="%.4g")
    plots.save(draw(frame), folder, "study_scaling")
    print(f"Table and figure: {folder / 'study_scaling.csv'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(programs.shipped_data(folder), options.threads, options.repeats, Path(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
