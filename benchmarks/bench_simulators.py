"""One training step of the 2019 circuit, outputs and both gradients through autograd: ours, its peers and the floor.

    .venv/bin/python -m pip install -r benchmarks/requirements.txt     once, for the peers
    .venv/bin/python benchmarks/bench_simulators.py                    the grid: about 20 minutes
    .venv/bin/python benchmarks/bench_simulators.py --quick --check    three cells, under a minute

float32, depth 6, all angles and inputs differentiated. Methods take turns; times are medians. Each method's outputs
and gradients are compared with ours before it is timed. What would not fit into memory is named instead.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import timing

DEPTH = 6
QUBITS, BATCHES = (4, 8, 12, 16), (4, 32, 256)
QUICK = ((4, 4), (4, 256), (8, 32))
OURS, EMPTY = "statevector", "empty autograd Function"
PENNYLANE = "PennyLane default.qubit"
JITTED = ("TensorCircuit-NG, JAX", "PennyLane, JAX")
# cell -> how many times faster than PennyLane's broadcast and than the best compiled peer it must be
ASKED = {(4, 4): (300, 3), (4, 256): (300, 30), (8, 32): (400, 25), (12, 32): (150, 25), (12, 256): (150, 25)}
ASKED[16, 32] = (100, None)
ASKED_MEMORY = {(16, 256): 400e6}  # bytes over the process's own


def data(n, batch):
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, n), (DEPTH, n), (batch, n))
    return [torch.randn(shape, generator=generator) for shape in shapes]  # inputs, weights, gradient of the outputs


# ---- methods: each returns a function that makes one step and returns outputs and gradients -------------------------


def torch_step(run, n, batch):
    import torch

    inputs, weights, gradient = data(n, batch)
    inputs.requires_grad_(), weights.requires_grad_()

    def step():
        out = run(inputs, weights)
        return out, *torch.autograd.grad(out, [inputs, weights], gradient.to(out.dtype))

    return step


def circuit(n):
    from qtl_utils.circuits.ansatze import make_circuit

    return make_circuit("mari2019", "tanh", n)


def ours(n, batch, executor="auto"):
    from qtl_utils.circuits.statevector import Statevector

    return torch_step(Statevector(circuit(n), n, (DEPTH, n), executor=executor), n, batch)


def empty(n, batch):
    import torch

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, weights):
            ctx.save_for_backward(inputs, weights)
            return torch.empty_like(inputs)

        @staticmethod
        def backward(ctx, gradient):
            return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)

    return torch_step(Empty.apply, n, batch)


def pennylane(n, batch, device="default.qubit", diff_method="backprop"):
    import pennylane as qml
    import torch

    qnode = qml.QNode(circuit(n), qml.device(device, wires=n), interface="torch", diff_method=diff_method)
    return torch_step(lambda inputs, weights: torch.stack(tuple(qnode(inputs, weights)), -1), n, batch)


def torch_layer(n, batch):
    import pennylane as qml
    import torch

    function = circuit(n)

    def named(inputs, weights):
        return function(inputs, weights)

    qnode = qml.QNode(named, qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop")
    layer = qml.qnn.TorchLayer(qnode, {"weights": (DEPTH, n)})
    weights = data(n, batch)[1]
    layer.load_state_dict({"weights": weights})
    inputs, _, gradient = data(n, batch)
    inputs.requires_grad_()

    def step():
        out = layer(inputs)
        return out, *torch.autograd.grad(out, [inputs, layer.weights], gradient.to(out.dtype))

    return step


def jax_step(one, n, batch):
    """`one`: inputs (n,) and weights -> outputs (n,), vectorised over the batch and compiled."""
    import jax

    inputs, weights, gradient = (jax.numpy.asarray(tensor.numpy()) for tensor in data(n, batch))

    def loss(inputs, weights):
        out = jax.vmap(one, (0, None))(inputs, weights)
        return (out * gradient).sum(), out

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    def step():
        (_, out), grads = jax.block_until_ready(compiled(inputs, weights))
        return out, *grads

    return step


def tensorcircuit_jax(n, batch):
    import jax
    import tensorcircuit as tc

    tc.set_backend("jax")
    tc.set_dtype("complex64")

    def one(inputs, weights):
        c = tc.Circuit(n)
        for i in range(n):
            c.h(i)
            c.ry(i, theta=inputs[i])
        for k in range(DEPTH):
            for first in (0, 1):
                for i in range(first, n - 1, 2):
                    c.cnot(i, i + 1)
            for i in range(n):
                c.ry(i, theta=weights[k, i])
        return jax.numpy.stack([c.expectation_ps(z=[i]).real for i in range(n)])

    return jax_step(one, n, batch)


def pennylane_jax(n, batch):
    import jax
    import pennylane as qml

    qnode = qml.QNode(circuit(n), qml.device("default.qubit", wires=n), interface="jax", diff_method="backprop")
    return jax_step(lambda inputs, weights: jax.numpy.stack(qnode(inputs, weights)), n, batch)


def deepquantum(n, batch):
    import deepquantum as dq
    import torch

    c = dq.QubitCircuit(n)
    for i in range(n):
        c.h(i)
        c.ry(i, encode=True)
    for _ in range(DEPTH):
        for first in (0, 1):
            for i in range(first, n - 1, 2):
                c.cnot(i, i + 1)
        for i in range(n):
            c.ry(i, encode=True)
    for i in range(n):
        c.observable(i)

    def run(inputs, weights):
        c(data=torch.cat([inputs, weights.flatten().expand(len(inputs), -1)], 1))
        return c.expectation()

    return torch_step(run, n, batch)


# name -> how to build a step, bytes that one amplitude of one sample takes (every gate's state is kept, or two are)
GATES = lambda n: (DEPTH + 2) * n + DEPTH * (n - 1)  # noqa: E731
METHODS = {
    OURS: (ours, lambda n: 0),
    "statevector, torch executor": (partial(ours, executor="torch"), lambda n: 24),
    EMPTY: (empty, lambda n: 0),
    PENNYLANE: (pennylane, lambda n: 16 * GATES(n)),
    "PennyLane TorchLayer": (torch_layer, lambda n: 16 * GATES(n)),
    "PennyLane lightning.qubit, adjoint": (
        partial(pennylane, device="lightning.qubit", diff_method="adjoint"),
        lambda n: 0,
    ),
    JITTED[0]: (tensorcircuit_jax, lambda n: 8 * GATES(n)),
    JITTED[1]: (pennylane_jax, lambda n: 16 * GATES(n)),
    "DeepQuantum": (deepquantum, lambda n: 8 * GATES(n)),
}


# ---- measuring ------------------------------------------------------------------------------------------------------


def prepare(name, n, batch, limit):
    """A step that was run once, the seconds of that first run, and why there is no step."""
    import psutil
    import torch

    build, per_amplitude = METHODS[name]
    needed, free = per_amplitude(n) * batch * 2**n, psutil.virtual_memory().available
    if needed > 0.7 * free:
        return None, None, f"would need about {needed / 1e9:.0f} GB"
    start = time.perf_counter()
    try:
        step = build(n, batch)
        found = tensors(step())
    except ImportError as error:
        return None, None, f"not installed ({error.name})"
    first = time.perf_counter() - start
    if name != EMPTY:
        for value, wanted in zip(found, tensors(ours(n, batch)()), strict=True):
            torch.testing.assert_close(value.float(), wanted, atol=1e-3, rtol=1e-3)
    if first > limit and (again := timing.once(step)) > limit:
        return None, first, f"one step took {again:.0f} s"
    return step, first, ""


def tensors(values):
    """Outputs and gradients of torch or JAX as torch tensors."""
    import numpy as np
    import torch

    return [v.detach() if isinstance(v, torch.Tensor) else torch.from_numpy(np.array(v)) for v in values]


def memory(name, n, batch):
    """Peak bytes over the process's own before the step, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, str(n), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def measure_memory(name, n, batch):
    """Builds the step small first, so that imports and compilers are there, then prints what the step adds."""
    import psutil

    from qtl_utils.study.environment import PeakMemory

    METHODS[name][0](2, 2)()
    before = psutil.Process().memory_info().rss
    with PeakMemory(0.002) as peak:
        METHODS[name][0](n, batch)()
    print(max(peak.bytes - before, 0))


def first_call(tmp):
    """Seconds of the first step on a machine that has no compiled kernels yet, imports apart."""
    import os

    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import bench_simulators as b\n"
        "import qtl_utils.circuits.kernels\n"
        "s = b.ours(4, 4); t = time.perf_counter(); s(); print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code, str(timing.PROJECT / "benchmarks")]
    environment = os.environ | {"NUMBA_CACHE_DIR": tmp}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def machine_rates():
    """Measured floating-point operations per second (float32 matrix product) and bytes copied per second."""
    import torch

    a, b, big = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2**26)
    target = torch.empty_like(big)
    seconds = timing.alternate({"gemm": lambda: a @ b, "copy": lambda: target.copy_(big)}, 5)
    return 2 * 2048**3 / min(seconds["gemm"]), 2 * 4 * 2**26 / min(seconds["copy"])


def floor(n, batch, rates):
    """Seconds that the operations take at the matrix product's rate, and the bytes at the copy's.

    A rotation of a pair takes 6 operations forward; backward undoes it in two states and takes 4 for the derivative:
    11 an amplitude. Every one of the three states it touches is read and written once a rotation.
    """
    amplitudes = (DEPTH + 1) * n * 2**n * batch
    return 11 * amplitudes / rates[0], 3 * 2 * 4 * amplitudes / rates[1]


def profile(n, batch, repeats):
    """Where our step's seconds go: autograd itself, the kernels, and what Python adds around them."""
    import torch

    from qtl_utils.circuits import kernels
    from qtl_utils.circuits.program import compile_circuit
    from qtl_utils.circuits.statevector_cpu import schedule_of

    schedule = schedule_of(compile_circuit(circuit(n), n, (DEPTH, n)))  # kept: the kernels read its arrays
    plan = schedule.plans[torch.float32]
    inputs, weights, gradient = data(n, batch)
    blocks, of_inputs = -(-batch // plan.kind.lanes), torch.empty_like(inputs)
    states, scratch = (torch.empty(size, dtype=torch.uint8) for size in (blocks * plan.block_bytes, plan.scratch_bytes))
    parts = torch.empty(batch * weights.numel())
    share = plan.kind, plan.address, 0, blocks, plan.block_bytes, states.data_ptr()
    given = inputs.data_ptr(), weights.data_ptr(), batch, batch
    ends = gradient.data_ptr(), of_inputs.data_ptr(), parts.data_ptr()
    seconds = timing.alternate(
        {
            "step": ours(n, batch),
            "autograd": empty(n, batch),
            "forward": lambda: kernels.forward_blocks(*share, *given, of_inputs.data_ptr()),
            "backward": lambda: kernels.backward_blocks(*share, scratch.data_ptr(), *given, *ends),
        },
        repeats,
    )
    row = {"n_qubits": n, "batch": batch} | {name: sorted(times)[repeats // 2] for name, times in seconds.items()}
    row["around"] = row["step"] - row["autograd"] - row["forward"] - row["backward"]
    return row


def run_cell(n, batch, methods, repeats, limit):
    rows, steps = [], {}
    for name in methods:
        step, first, reason = prepare(name, n, batch, limit)
        rows.append({"n_qubits": n, "batch": batch, "method": name, "first_seconds": first, "skipped_reason": reason})
        if step:
            steps[name] = step
    seconds = timing.alternate(steps, repeats)
    for row in rows:
        times = sorted(seconds.get(row["method"], []))
        row["seconds"] = times[len(times) // 2] if times else None
        row["least_seconds"], row["most_seconds"] = (times[0], times[-1]) if times else (None, None)
        shown = f"{row['seconds'] * 1e3:.4g} ms" if times else f"- ({row['skipped_reason']})"
        print(f"n={n:<3} B={batch:<4} {row['method']:36}", shown, flush=True)
    return rows


# ---- reporting ------------------------------------------------------------------------------------------------------


def check(frame):
    """Rows (what, found, at least) of everything asked of the cells that were run."""
    rows = []
    times = frame.pivot_table(index=["n_qubits", "batch"], columns="method", values="seconds", dropna=False)
    for (n, batch), (by_pennylane, by_jax) in ASKED.items():
        if (n, batch) not in times.index:
            continue
        cell = times.loc[n, batch]
        compiled = cell.reindex(list(JITTED)).min()
        found = [(PENNYLANE, cell.get(PENNYLANE), by_pennylane), ("the best peer compiled by JAX", compiled, by_jax)]
        found = [(f"n={n} B={batch} against {who}", t / cell[OURS], x) for who, t, x in found if x and t == t]
        spare = 1.5 * cell.get(EMPTY, float("nan")) / cell[OURS]
        if (n, batch) == (4, 4) and spare >= 1:  # asked instead of both: at most 1.5 times a function that does nothing
            found = [(f"n={n} B={batch}, 1.5 times {EMPTY} over ours", spare, 1)]
        rows += found
    for (n, batch), most in ASKED_MEMORY.items():
        cell = frame[(frame.n_qubits == n) & (frame.batch == batch) & (frame.method == OURS)]
        if len(cell) and "memory_bytes" in cell and (used := cell.memory_bytes.iloc[0]) == used:
            rows.append((f"n={n} B={batch}, {most / 1e6:.0f} MB over the memory used", most / max(used, 1), 1.0))
    return rows


def markdown(frame):
    """Milliseconds of the cells that something was asked of, a row a method, as the README shows them."""
    columns = [f"{n} qubits, {batch}" for n, batch in ASKED]
    lines = ["| milliseconds per step | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for method in METHODS:
        rows = frame[frame.method == method].set_index(["n_qubits", "batch"]).seconds
        times = [rows.get(cell, float("nan")) * 1e3 for cell in ASKED]
        if any(time == time for time in times):
            cells = [f"{time:.2g}" if time < 10 else f"{time:,.0f}" if time == time else "-" for time in times]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(frame):
    """Milliseconds against qubits, a panel a batch size, both axes logarithmic in the number of amplitudes."""
    import matplotlib as mpl

    from qtl_utils.results import plots

    looks = dict(zip(METHODS, plots.LOOKS.values(), strict=False))
    with mpl.rc_context(plots.STYLE):
        figure = plots.Figure(figsize=(plots.WIDTH, 3.6))
        axes = figure.subplots(1, len(frame.batch.unique()), sharey=True, squeeze=False)[0]
        for axis, (batch, cell) in zip(axes, frame.groupby("batch"), strict=True):
            for method, rows in cell.dropna(subset="seconds").groupby("method", sort=False):
                colour, marker = looks[method]
                axis.plot(2.0**rows.n_qubits, rows.seconds * 1e3, color=colour, marker=marker, ms=5, label=method)
            floors = cell.drop_duplicates("n_qubits")
            axis.plot(2.0**floors.n_qubits, floors.floor_seconds * 1e3, color="0.5", ls=":", label="floor: operations")
            axis.set(xscale="log", yscale="log", title=f"{batch} samples", xlabel="qubits")
            axis.set_xticks([2.0**n for n in QUBITS], [str(n) for n in QUBITS])
            axis.minorticks_off()
        axes[0].set_ylabel("milliseconds per step")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return figure


def report(options):
    import pandas as pd

    from qtl_utils.results import plots
    from qtl_utils.study.environment import describe

    rates = machine_rates()
    print(
        f"{rates[0] / 1e9:.0f} billion operations a second (float32 matrix product), {rates[1] / 1e9:.1f} GB/s copied"
    )
    cells = QUICK if options.quick else [(n, batch) for n in QUBITS for batch in BATCHES]
    methods = [m for m in METHODS if not options.quick or m in (OURS, EMPTY, PENNYLANE, JITTED[0])]
    rows = [row for n, batch in cells for row in run_cell(n, batch, methods, options.repeats, options.limit)]
    for row in rows:
        cell = row["n_qubits"], row["batch"]
        row["floor_seconds"], row["streaming_seconds"] = floor(*cell, rates)
        large = not options.quick and (cell[0] == QUBITS[-1] or cell == (12, 256))
        row["memory_bytes"] = memory(row["method"], *cell) if large and row["seconds"] else None
    frame = pd.DataFrame(rows)
    rows = [profile(n, batch, options.repeats) for n, batch in QUICK]
    parts = pd.DataFrame(rows).set_index(["n_qubits", "batch"])
    print("microseconds of our step, kernels on one thread:", (parts * 1e6).round(1).to_string(), sep="\n")
    with tempfile.TemporaryDirectory() as empty_cache:
        print(f"first step where no kernel was compiled yet: {first_call(empty_cache):.1f} s")
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "simulators.csv", index=False, float_format="%.4g")
    (folder / "simulators.json").write_text(
        json.dumps(
            describe() | {"threads": options.threads, "operations_per_second": rates[0], "bytes_per_second": rates[1]},
            indent=2,
        )
    )
    parts.to_csv(folder / "profile.csv", float_format="%.4g")
    plots.save(draw(frame), folder, "simulators")
    print(f"Table and figure: {folder}")
    if not options.check:
        return 0
    lines, short = timing.verdicts(check(frame))
    print(*lines, sep="\n")
    return int(short > 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three cells, without the slowest peers")
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="skip a method whose step takes longer (seconds)")
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    if options.memory_of:
        name, n, batch = options.memory_of
        measure_memory(name, int(n), int(batch))
        return 0
    return report(options)


if __name__ == "__main__":
    sys.exit(main())
