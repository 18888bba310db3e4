"""Where gradients go: through the stages of a model, over initialisations, under shots and noise, and to zero."""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
import pennylane as qml
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS, inert_angles, make_circuit
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.program import Program, compile_circuit
from qtl_utils.circuits.simulators import METHODS, SIMULATORS, Task, exact_simulators, open_cell
from qtl_utils.circuits.statevector import simulate
from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.models.backbones import load_backbone
from qtl_utils.models.heads import VARIANTS, HeadSettings, circuit_angles, make_head
from qtl_utils.models.network import Network, train_epoch
from qtl_utils.models.pieces import Pieces
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.study.names import find
from qtl_utils.training.fits import Rates, random_orders
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.optimizers import network_optimizer
from qtl_utils.training.variants import head_settings, make_network

STAGES = ("backbone", "pre-layer", "circuit", "post-layer", "head")
ZERO = 1e-12  # gradients below, over random draws in float64, are structural zeros


# ---- through a model -------------------------------------------------------------------------------------------------


def stages(model: nn.Module) -> dict[str, str]:
    """The stage of every trainable parameter of a `Network`, in the order in which data pass them."""
    angles = {f"head.{name}" for name in circuit_angles(model.head)}
    found = {}
    passed = False
    for name, p in model.named_parameters():
        passed |= name in angles
        if not p.requires_grad:
            continue
        if name.startswith("backbone."):
            found[name] = "backbone"
        elif not angles:
            found[name] = "head"
        else:
            found[name] = "circuit" if name in angles else "post-layer" if passed else "pre-layer"
    return found


def _layer(name: str) -> str:
    return name.removeprefix("backbone.network.").rpartition(".")[0] or name


def gradient_flow(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> pd.DataFrame:
    """Gradient of the cross-entropy of one batch, a row per parameter tensor in the order data pass them.

    `norm` is Euclidean, `rms` the norm over the root of the number of elements, `zeros` the share of exact zeros.
    """
    where = stages(model)
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in where]
    grads = torch.autograd.grad(cross_entropy(model(inputs), labels), wanted, allow_unused=True)
    rows = []
    for (name, stage), p, grad in zip(where.items(), wanted, grads, strict=True):
        grad = torch.zeros_like(p) if grad is None else grad
        row = {"parameter": name, "layer": _layer(name), "stage": stage, "elements": p.numel(), "dimensions": p.dim()}
        norm = grad.norm().item()
        rows.append(row | {"norm": norm, "rms": norm / p.numel() ** 0.5, "zeros": (grad == 0).double().mean().item()})
    return pd.DataFrame(rows)


def network_flow(model: str, image_size: int, batch: int, circuit: dict, seed: int = 0) -> pd.DataFrame:
    """`gradient_flow` of a torchvision classifier with random weights whose classifier is a quantum head, on digits.

    A fresh VisionTransformer's last linear layer, where zeros start it, is cut off with the classifier.
    """
    data = load_dataset("digits")
    pixels = torch.from_numpy(load_pixels(data, image_size)[:batch])
    backbone = load_backbone(model, image_size, "random", seed=seed, frozen=False)
    head = make_head("A-joint", HeadSettings(backbone.n_features, len(data.classes), **circuit), seed)
    flow = gradient_flow(Network(backbone, head).train(), pixels, torch.from_numpy(data.labels[:batch]))
    return flow.assign(network=model)


def watch_training(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    orders: np.ndarray,
    rates: Rates,
    config: TrainConfig,
) -> pd.DataFrame:
    """Trains a `Network` over `orders` (epochs, n) and records every step: a row per step and parameter tensor.

    `gradient` is the norm of the gradient, `ratio` |update| / |weights|: about 1e-3 is healthy, 0 learns nothing.
    """
    optimizer = network_optimizer(model, rates, config)
    where = stages(model)
    rows = []
    parameters = {name: p for name, p in model.named_parameters() if name in where}
    before = {}
    step = 0

    def remember(*_):
        before.update({name: p.detach().clone() for name, p in parameters.items()})

    def record(*_):
        nonlocal step
        step += 1
        for name, p in parameters.items():
            moved = (p.detach() - before[name]).norm().item()
            size = before[name].norm().item()
            gradient = 0.0 if p.grad is None else p.grad.norm().item()
            row = {"step": step, "parameter": name, "layer": _layer(name), "stage": where[name]}
            rows.append(row | {"gradient": gradient, "update": moved, "weights": size, "ratio": moved / (size or 1.0)})

    hooks = optimizer.register_step_pre_hook(remember), optimizer.register_step_post_hook(record)
    for epoch, order in enumerate(orders):
        torch.manual_seed(epoch)
        train_epoch(model, optimizer, inputs, labels, order, config)
    for hook in hooks:
        hook.remove()
    return pd.DataFrame(rows)


def watch_variant(variant: str, inputs: Inputs, config: TrainConfig, seed: int = 0) -> pd.DataFrame:
    """`watch_training` of one variant from the start of a study, on split 0; needs images where backbones train."""
    settings = head_settings(inputs, config)
    full = VARIANTS[variant].training == "full"
    if full:
        model = make_network(variant, inputs, settings, seed)
        data = torch.from_numpy(inputs.pixels)
    else:
        model = Network(nn.Identity(), make_head(variant, settings, seed))
        data = inputs.features
    order = random_orders(inputs.splits.indices(0, "train"), seed, config.epochs)
    rates = Rates(config.lr_classical, config.lr_quantum, config.lr_backbone)
    labels = torch.from_numpy(inputs.data.labels)
    return watch_training(model, data, labels, order, rates, config).assign(variant=variant)


def joint_model(inputs: Inputs, settings: HeadSettings, batch: int, seed: int = 0):
    """A-joint's model with uniform random angles, and a batch of training samples: model, samples, labels.

    Points have no backbone; their model begins with the pre-layer.
    """
    if len(inputs.pixels):
        model = make_network("A-joint", inputs, settings, seed)
        data = torch.from_numpy(inputs.pixels)
    else:
        model = Network(nn.Identity(), make_head("A", settings, seed))
        data = inputs.features
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in circuit_angles(model.head).values():
            p.copy_(_uniform(p.shape, generator))
    index = inputs.splits.indices(0, "train")[:batch]
    data = data[index]
    return model, data if data.dtype == torch.uint8 else data.double(), torch.from_numpy(inputs.data.labels[index])


def by_stage(watched: pd.DataFrame, keys: Sequence[str] = ()) -> pd.DataFrame:
    """`watch_training` summed up per step and stage: norms of all of a stage's parameters together."""
    squares = watched.assign(**{name: watched[name] ** 2 for name in ("gradient", "update", "weights")})
    sums = squares.groupby([*keys, "step", "stage"], sort=False)[["gradient", "update", "weights"]].sum() ** 0.5
    return sums.assign(ratio=sums["update"] / sums["weights"].where(sums["weights"] > 0, 1.0)).reset_index()


def where_it_dies(steps: pd.DataFrame) -> list[str]:
    """A sentence per variant of `by_stage`: the stage whose gradient changes most from the first fifth to the last."""
    lines = []
    for variant, part in steps.groupby("variant", sort=False):
        count = max(part["step"].max() // 5, 1)
        ends = (part["step"] <= count, part["step"] > part["step"].max() - count)
        first, last = (part[where].groupby("stage", sort=False)["gradient"].median() for where in ends)
        change = (last / first).replace([np.inf, 0], np.nan).dropna()
        silent = [stage for stage in first.index if stage not in change]
        if silent:
            lines.append(f"{variant}: no gradient reaches the {' and the '.join(silent)}.")
        elif len(change):
            stage = change.idxmin()
            fell = f"falls to {change[stage]:.2g} of" if change[stage] < 0.5 else f"stays at {change[stage]:.2g} times"
            lines.append(f"{variant}: of all stages the {stage} loses most; its gradient {fell} what it was at first.")
    return lines


# ---- methods, in the whole model -------------------------------------------------------------------------------------


class Simulated(nn.Module):
    """A circuit run by `run(inputs, weights)` in place of a `QuantumLayer`; keeps its inputs and their gradient."""

    def __init__(self, run: Callable, weights: torch.Tensor):
        super().__init__()
        self.run = [run]
        self.weights = nn.Parameter(weights.detach().clone())
        self.inputs = None

    def forward(self, inputs):
        self.inputs = inputs
        if inputs.requires_grad:
            inputs.retain_grad()
        return self.run[0](inputs, self.weights)


def with_circuit(model: Network, run: Callable) -> tuple[Network, Simulated]:
    """A float64 copy of a model in eval mode whose circuit is run by `run`, and the layer that runs it."""
    model = copy.deepcopy(model).double().eval()
    number, layer = next((i, m) for i, m in enumerate(model.head) if isinstance(m, QuantumLayer))
    model.head[number] = Simulated(run, layer.weights)
    return model, model.head[number]


def circuit_task(model: Network) -> Task:
    """The circuit inside a model as a task for the simulators."""
    layer = next(m for m in model.head if isinstance(m, QuantumLayer))
    circuit = make_circuit(layer.ansatz, layer.encoding, layer.n_qubits)
    return Task(circuit, layer.n_qubits, tuple(layer.weights.shape))


def _targets(model: Network, layer: Simulated) -> dict[str, torch.Tensor]:
    """What is compared: angles, weights of the pre-layer, and the first weights of the backbone, if it is trained."""
    found = {"angles": layer.weights, "pre-layer": model.head[0].weight}
    backbone = [p for p in model.backbone.parameters() if p.requires_grad and p.dim() > 1]
    return found | ({"backbone": backbone[0]} if backbone else {})


def whole_gradients(model: Network, run: Callable, pixels: torch.Tensor, labels: torch.Tensor) -> dict:
    """Gradients of the loss with `run` as the circuit: of the circuit's inputs and of the parameters, by group."""
    model, layer = with_circuit(model, run)
    targets = _targets(model, layer)
    cross_entropy(model(pixels), labels).backward()
    missing = lambda t: torch.zeros_like(t) if t.grad is None else t.grad  # noqa: E731
    return {"inputs": missing(layer.inputs)} | {name: missing(t) for name, t in targets.items()}


def central_differences(
    model: Network, run: Callable, pixels: torch.Tensor, labels: torch.Tensor, most: int = 12, h: float = 1e-5
) -> pd.DataFrame:
    """Derivatives from differences of the loss alone, at most `most` elements of each group, a row per element.

    Columns: group, position in the flattened tensor, derivative, and `kink`, whether some unit of the network would
    have changed its piece (a ReLU its side of zero) between the two points. Units are held on the pieces that they are
    on at the point itself, where backpropagation takes the derivative (qtl_utils.models.pieces).
    """
    model, layer = with_circuit(model, run)
    rows = []
    with torch.no_grad():
        model(pixels)
        inputs = layer.inputs.clone()
        tail = model.head[list(model.head).index(layer) :]
        groups = {"inputs": inputs} | _targets(model, layer)
        for name, tensor in groups.items():
            loss = _loss_on_its_pieces((lambda: tail(inputs)) if name == "inputs" else (lambda: model(pixels)), labels)
            flat = tensor.view(-1)
            positions = torch.linspace(0, len(flat) - 1, min(most, len(flat))).long().unique()
            for i in positions.tolist():
                kept = flat[i].item()
                ends = []
                for shift in (h, -h):
                    flat[i] = kept + shift
                    ends.append(loss())
                flat[i] = kept
                (up, kink_up), (down, kink_down) = ends
                row = {"group": name, "position": i, "derivative": (up - down) / (2 * h)}
                rows.append(row | {"kink": kink_up or kink_down})
    return pd.DataFrame(rows)


def _loss_on_its_pieces(logits: Callable, labels: torch.Tensor) -> Callable[[], tuple[float, bool]]:
    """A function that gives the loss with every unit on its present piece, and whether one would have left it."""
    with Pieces() as here:
        logits()

    def loss():
        with Pieces(here.found) as held:
            value = cross_entropy(logits(), labels).item()
        return value, held.crossed

    return loss


def method_errors(
    model: Network,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    simulators: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every method that works in the whole model against reverse mode in float64: a row per method and group.

    `largest` is the largest absolute error, `relative` the error's norm over the reference's. The last rows are
    central differences of the loss, which use no method at all and so check the reference, at `elements` of its
    elements, of which `kinks` have a kink of the network within the step (see `central_differences`).
    """
    task = circuit_task(model)
    run, _ = SIMULATORS["default.qubit"].build(task, "backprop")
    reference = whole_gradients(model, run, pixels, labels)
    rows = []

    def add(simulator, method, group, error, size):
        row = {"simulator": simulator, "method": method, "group": group, "largest": error.abs().max().item()}
        rows.append(row | {"relative": error.norm().item() / (size.norm().item() or 1.0)})

    for simulator in simulators or exact_simulators():
        for method in methods or METHODS:
            cell = open_cell(task, simulator, method, len(pixels))
            if cell["run"] is None:
                continue
            for group, gradient in whole_gradients(model, cell["run"], pixels, labels).items():
                add(simulator, method, group, gradient - reference[group], reference[group])
    for group, part in central_differences(model, run, pixels, labels).groupby("group", sort=False):
        some = reference[group].reshape(-1)[part["position"].tolist()]
        found = torch.tensor(part["derivative"].tolist(), dtype=torch.float64)
        add("the loss alone", "central differences", group, found - some, some)
        rows[-1] |= {"elements": len(part), "kinks": int(part["kink"].sum())}
    return pd.DataFrame(rows)


# ---- over initialisations --------------------------------------------------------------------------------------------


def _small(shape, generator):
    return 0.01 * torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(shape, generator):
    return 2 * torch.pi * torch.rand(shape, generator=generator, dtype=torch.float64)


def _identity(shape, generator):
    # a block turns by w0, entangles, turns by w1, takes the entangling back and turns by w2
    weights = _uniform(shape, generator)
    weights[..., 1] = 0
    weights[..., 2] = -weights[..., 0]
    return weights


INITS: dict[str, Callable] = {"0.01 randn": _small, "U[0, 2 pi]": _uniform, "identity": _identity}
COSTS = {
    "local": lambda n: qml.PauliZ(0),
    "global": lambda n: qml.prod(*(qml.PauliZ(i) for i in range(n))) if n > 1 else qml.PauliZ(0),
}


@lru_cache(maxsize=512)
def _cost_program(ansatz: str, encoding: str, n_qubits: int, depth: int, rows: tuple) -> Program:
    """The circuit with the costs as its outputs; `rows` are the registry's, so that a changed row compiles again."""
    gates = find("ansatz", ansatz, ANSATZE).gates
    encode = find("encoding", encoding, ENCODINGS).gates

    def circuit(inputs, weights):
        encode(inputs, n_qubits)
        gates(inputs, weights, n_qubits)
        return [qml.expval(cost(n_qubits)) for cost in COSTS.values()]

    return compile_circuit(circuit, n_qubits, ANSATZE[ansatz].shape(n_qubits, depth))


def draw_gradients(
    ansatz: str, n_qubits: int, depth: int, init: str, draws: int, seed: int = 0, encoding: str = "tanh"
) -> dict[str, np.ndarray]:
    """Cost -> its derivatives by the angles, (draws, angles), for random angles and inputs U[-pi/2, pi/2]."""
    row = find("ansatz", ansatz, ANSATZE)
    generator = torch.Generator().manual_seed(seed)
    program = _cost_program(ansatz, encoding, n_qubits, depth, (row, find("encoding", encoding, ENCODINGS)))
    weights = INITS[init]((draws, *program.weight_shape), generator).requires_grad_()
    inputs = (torch.rand((draws, 1, n_qubits), generator=generator, dtype=torch.float64) - 0.5) * torch.pi
    out = simulate(program, inputs, weights)
    grads = [torch.autograd.grad(out[..., k].sum(), weights, retain_graph=True)[0] for k in range(len(COSTS))]
    return {cost: grad.flatten(1).numpy() for cost, grad in zip(COSTS, grads, strict=True)}


def variances(
    ansatze: Sequence[str],
    qubits: Sequence[int],
    depths: Sequence[int],
    draws: int,
    seed: int = 0,
    encoding: str = "tanh",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Variance of dL/d(angle) for every ansatz, initialisation, cost, depth and n; and the rate at which it falls.

    First table: `variance` is the mean over angles that the cost depends on, `reached` their number. Second: the
    slope of ln(variance) over n, per qubit, with an interval from resampling the draws (2.5 to 97.5 %), beside
    `theory`. 'identity' is drawn for ansatz 'identity_blocks' alone, which is made for it.
    """
    rows = []
    rates = []
    for ansatz, init, depth in progress(list(product(ansatze, INITS, depths)), "circuits"):
        if init == "identity" and ansatz != "identity_blocks":
            continue
        found = {n: draw_gradients(ansatz, n, depth, init, draws, seed, encoding) for n in qubits}
        for cost in COSTS:
            keys = {"ansatz": ansatz, "init": init, "cost": cost, "depth": depth}
            of_cost = {n: gradients[cost] for n, gradients in found.items()}
            for n, g in of_cost.items():
                reached = int((np.abs(g).max(0) > ZERO).sum())
                rows.append(keys | {"n_qubits": n, "variance": mean_variance(g)[0], "reached": reached})
            rates.append(keys | rate(of_cost, seed) | {"theory": theory(ansatz, init, cost)})
    return pd.DataFrame(rows), pd.DataFrame(rates)


def mean_variance(gradients: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The variance over draws, averaged over the angles with a gradient; nan where there is none.

    gradients: (draws, angles). weights (S, draws): how often each of S samples holds each draw; once each if None.
    """
    reached = gradients[:, np.abs(gradients).max(0) > ZERO]
    if not reached.size:
        return np.full(1 if weights is None else len(weights), np.nan)
    draws = len(reached)
    weights = np.ones((1, draws)) if weights is None else weights
    mean = weights @ reached / draws
    square = weights @ reached**2 / draws
    return ((square - mean**2) * draws / (draws - 1)).mean(1)


def rate(found: dict[int, np.ndarray], seed: int = 0, resamples: int = 200) -> dict[str, float]:
    """Slope of ln(variance) over n for gradients {n: (draws, angles)}, with a 95 % bootstrap interval over draws."""
    rng = np.random.default_rng(seed)
    values = []
    for g in found.values():
        counts = rng.multinomial(len(g), np.full(len(g), 1 / len(g)), size=resamples)
        values.append(np.concatenate([mean_variance(g), mean_variance(g, counts)]))
    logs = np.log(np.maximum(np.array(values), 1e-300))  # (n, 1 + resamples), the sample itself first
    n = np.array(list(found), float) - np.mean(list(found))
    slopes = n @ logs / (n @ n) if len(n) > 1 else np.full(logs.shape[1], np.nan)
    low, high = np.quantile(slopes[1:], [0.025, 0.975])
    return {"rate": float(slopes[0]), "low": float(low), "high": float(high)}


def theory(ansatz: str, init: str, cost: str) -> float:
    """The slope of ln(variance) per qubit that is known, or nan.

    Without entanglement and with uniform angles, exactly: a product of n factors, each with mean square 1/2, for the
    global cost; nothing that depends on n for the local one (arXiv:2001.00550). Other ansätze with uniform angles:
    what depth tends to, that of a unitary 2-design, whatever the cost (arXiv:1803.11173).
    """
    if init != "U[0, 2 pi]":
        return np.nan
    return 0.0 if ansatz == "separable" and cost == "local" else -float(np.log(2))


# ---- structural zeros ------------------------------------------------------------------------------------------------


def jacobians(task: Task, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """d(output)/d(angle), (R, outputs, angles), for R weight sets (R, *shape) and inputs (R, n_qubits), float64."""
    program = compile_circuit(task.circuit, task.n_qubits, task.weight_shape)
    weights = weights.requires_grad_()
    out = simulate(program, inputs[:, None], weights)[:, 0]
    rows = [torch.autograd.grad(out[:, k].sum(), weights, retain_graph=True)[0] for k in range(out.shape[1])]
    return torch.stack([row.flatten(1) for row in rows], 1)


def structural_zeros(ansatz: str, encoding: str, n_qubits: int, depth: int, draws: int = 8, seed: int = 0):
    """Which angles no output depends on, and how many outputs each angle reaches, found over random draws.

    Returns a row per angle (its index, `outputs` that depend on it, `reason` where the ansatz explains a zero) and
    the rank of the Jacobian over all draws: at random angles, and with all angles at zero.
    """
    shape = find("ansatz", ansatz, ANSATZE).shape(n_qubits, depth)
    task = Task(make_circuit(ansatz, encoding, n_qubits), n_qubits, shape)
    generator = torch.Generator().manual_seed(seed)
    draws = max(draws, 2 * int(np.prod(shape)) // n_qubits + 1)  # enough rows for the rank
    weights = _uniform((draws, *shape), generator)
    inputs = (torch.rand((draws, n_qubits), generator=generator, dtype=torch.float64) - 0.5) * torch.pi
    jacobian = jacobians(task, weights, inputs)
    depends = (jacobian.abs().amax(0) > ZERO).numpy()  # (outputs, angles)
    reasons = np.full(shape, "", object)
    for reason, mask in inert_angles(ansatz, n_qubits, depth).items():
        reasons[mask] = reason
    rows = [
        {"angle": str(index), "outputs": int(depends[:, i].sum()), "reason": reasons[index]}
        for i, index in enumerate(np.ndindex(shape))
    ]
    one = weights[:1].detach().expand(draws, *shape).clone()  # the same angles, seen through many inputs
    ranks = {
        "at random angles": _rank(jacobians(task, one, inputs)),
        "at zero angles": _rank(jacobians(task, torch.zeros_like(one), inputs)),
    }
    return pd.DataFrame(rows), ranks


def _rank(jacobian: torch.Tensor) -> int:
    flat = jacobian.flatten(0, 1)
    return int(torch.linalg.matrix_rank(flat, rtol=1e-10)) if flat.numel() else 0


# ---- shots and noise -------------------------------------------------------------------------------------------------

SHOT_METHODS = {  # name -> PennyLane's method and keywords
    "parameter-shift": ("parameter-shift", {}),
    "spsa, step 0.2": ("spsa", {"h": 0.2}),
    "spsa, default step": ("spsa", {}),
}


def shot_noise(
    task: Task, shots: Sequence[int], repeats: int, inputs: torch.Tensor, weights: torch.Tensor
) -> pd.DataFrame:
    """Signal-to-noise ratio of the gradient of <Z> summed over outputs, with respect to the angles, against shots.

    `snr` is |exact gradient| over the root mean square distance from it of `repeats` estimates: below 1 the estimate
    is mostly noise. `bias` is the distance of their mean, in units of its standard error; `executions` a step.
    """
    exact, _ = SIMULATORS["default.qubit"].build(task, "backprop")
    wanted = _angle_gradient(exact, inputs, weights)
    rows = []
    for name, (method, options) in SHOT_METHODS.items():
        for n in shots:
            run, count = SIMULATORS["default.qubit"].build(task, method, one_by_one=True, shots=n, **options)
            with count() as total:
                found = torch.stack([_angle_gradient(run, inputs, weights) for _ in range(repeats)])
            noise = (found - wanted).square().sum(-1).mean().sqrt()
            spread = found.std(0).norm() / repeats**0.5
            bias = (found.mean(0) - wanted).norm() / spread
            row = {"method": name, "shots": n, "snr": (wanted.norm() / noise).item(), "bias": bias.item()}
            rows.append(row | {"executions": total[0] // repeats})
    return pd.DataFrame(rows)


def _angle_gradient(run, inputs, weights) -> torch.Tensor:
    weights = weights.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(run(inputs.detach(), weights).sum(), weights)
    return gradient.flatten().double()


def depolarised(task: Task, strengths: Sequence[float], inputs: torch.Tensor, weights: torch.Tensor) -> pd.DataFrame:
    """Gradient and outputs under depolarising noise of each strength after every gate, beside those without."""
    rows = []
    clean = None
    for p in strengths:
        circuit = qml.noise.insert(task.circuit, qml.DepolarizingChannel, p, position="all") if p else task.circuit
        noisy = Task(circuit, task.n_qubits, task.weight_shape)
        run, _ = SIMULATORS["default.mixed"].build(noisy, "backprop")
        gradient = _angle_gradient(run, inputs, weights)
        out = run(inputs, weights).detach()
        clean = (gradient, out) if clean is None else clean
        cosine = torch.nn.functional.cosine_similarity(gradient, clean[0], 0).item()
        row = {"strength": p, "gradient": gradient.norm().item(), "outputs": out.norm().item(), "direction": cosine}
        kept = {"gradient_kept": (gradient.norm() / clean[0].norm()).item()}
        rows.append(row | kept | {"outputs_kept": (out.norm() / clean[1].norm()).item()})
    return pd.DataFrame(rows)
