"""What a training step under noise costs: density matrices of ours beside PennyLane's default.mixed, on one thread.

    .venv/bin/python benchmarks/bench_noise.py [--quick] [--out DIR]

Two minutes; --quick: batches of 4, once; --out: where noise.csv is written.

The circuit of 2019 (4 qubits, depth 6, tanh) with depolarising noise behind every gate: a step is forward and backward
of 20 replicas of a batch, each replica with weights of its own. PennyLane takes all samples with their weight sets as
one batch, by reverse mode. Both give the same outputs and gradients, which is checked first. Medians of five, taken in
turns.
"""

import argparse
import csv
import statistics
import sys
from pathlib import Path

import timing

SEEDS, QUBITS, DEPTH = 20, 4, 6
BATCHES = (4, 64)  # that of the study, and one that spares PennyLane most of its overhead
STRENGTH = 0.01  # each of X, Y and Z with a third of it
EPOCHS, SAMPLES = 30, 180  # of the training that the last line is about


def steps(batch: int) -> dict:
    """Steps by name: outputs, and gradients of inputs and weights, of SEEDS replicas of a batch."""
    import pennylane as qml
    import torch

    from qtl_utils.circuits import channels
    from qtl_utils.circuits.ansatze import make_circuit
    from qtl_utils.circuits.density import simulate_noisy
    from qtl_utils.circuits.noisy_program import compile_noisy

    torch.set_default_dtype(torch.float64)  # or default.mixed rounds its Hadamard gate to float32
    circuit = make_circuit("mari2019", "tanh", QUBITS)
    noise = channels.NoiseModel.after_every_gate(channels.depolarizing(STRENGTH, convention="pennylane"))
    program = compile_noisy(circuit, QUBITS, (DEPTH, QUBITS), noise)
    noisy = qml.noise.insert(circuit, qml.DepolarizingChannel, STRENGTH, position="all")
    node = qml.QNode(noisy, qml.device("default.mixed", wires=QUBITS), interface="torch", diff_method="backprop")
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs, weights, cotangent = draw(SEEDS, batch, QUBITS), draw(SEEDS, DEPTH, QUBITS), draw(SEEDS, batch, QUBITS)

    def ours(dtype, **options):
        x, w, c = (t.to(dtype) for t in (inputs, weights, cotangent))

        def step():
            found = x.clone().requires_grad_(), w.clone().requires_grad_()
            out = simulate_noisy(program, *found, **options)
            return out.detach(), *torch.autograd.grad((out * c).sum(), found)

        return step

    def pennylane():
        found = inputs.clone().requires_grad_(), weights.clone().requires_grad_()
        sets = found[1].repeat_interleave(batch, dim=0)
        out = torch.stack(node(found[0].flatten(0, 1), sets), -1).real.reshape(cotangent.shape)
        return out.detach(), *torch.autograd.grad((out * cotangent).sum(), found)

    return {
        "density, float32": ours(torch.float32),
        "density, float64": ours(torch.float64),
        "density, 1000 shots, parameter shift": ours(torch.float64, diff_method="parameter-shift", shots=1000, seed=0),
        "default.mixed, backprop": pennylane,
    }


def compare(found: dict) -> None:
    """SystemExit where exact ways do not agree."""
    expected = found["default.mixed, backprop"]()
    for name, atol in (("density, float64", 1e-10), ("density, float32", 1e-4)):
        for value, wanted in zip(found[name](), expected, strict=True):
            if (error := (value.double() - wanted).abs().max().item()) > atol:
                sys.exit(f"{name} and default.mixed differ by {error:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat instead of five")
    parser.add_argument("--out", type=Path, help="folder that noise.csv is written to")
    options = parser.parse_args()
    timing.pin_threads(1)
    rows = []
    for batch in BATCHES[: 1 if options.quick else None]:
        found = steps(batch)
        compare(found)
        seconds = timing.alternate(found, 1 if options.quick else 5)
        each = {name: 1e6 * statistics.median(values) / (SEEDS * batch) for name, values in seconds.items()}
        theirs = each["default.mixed, backprop"]
        print(f"batches of {batch}: microseconds a sample and step, and how many times as many default.mixed takes")
        for name, value in each.items():
            print(f"  {name:40} {value:10,.1f} {theirs / value:10,.1f} x")
            rows.append((batch, name, f"{value:.4g}", f"{theirs / value:.4g}"))
        whole = SEEDS * SAMPLES * EPOCHS / 1e6
        ours = whole * each["density, float32"]
        print(f"  20 seeds, 180 samples, 30 epochs: {ours:,.1f} s of ours, {whole * theirs:,.0f} s of default.mixed")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with open(options.out / "noise.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("batch", "way", "microseconds", "times_default_mixed"), *rows]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
