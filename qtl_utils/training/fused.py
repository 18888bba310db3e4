"""Heads whose training runs in one kernel: a chain of layers becomes a list of operations and a plan of memory."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from qtl_utils.circuits.limits import NOT_FINITE
from qtl_utils.circuits.statevector_cpu import KEPT_BYTES, schedule_of, scratch, spread
from qtl_utils.circuits.vectors import KINDS, VECTOR_BYTES
from qtl_utils.models.heads import Beside, Squash, TrigonometricFeatures, circuit_angles, is_circuit
from qtl_utils.study.config import TrainConfig
from qtl_utils.training import fused_kernels as kernels
from qtl_utils.training.fits import Rates, Samples
from qtl_utils.training.stacks import stackable_layers

EVALUATED = 64  # samples that go through a head at once where it is only evaluated
MAX_PARAMETERS = 2**23  # of all replicas that are trained in one call
ALWAYS = 2**62  # work of a block for `spread`: worth a thread
ELEMENTWISE = {
    nn.Identity: kernels.IDENTITY,
    nn.Tanh: kernels.TANH,
    nn.ReLU: kernels.RELU,
    nn.GELU: kernels.GELU,
    nn.SiLU: kernels.SILU,
    nn.Sigmoid: kernels.SIGMOID,
}


def why_not(module: nn.Module, device: torch.device) -> str:
    """Why heads like `module` cannot be trained in one kernel; '' where they can."""
    if device.type != "cpu":
        return f"it is trained on {device.type}"
    layers = stackable_layers(module)
    if layers is None:
        return "it is no chain of layers"
    reasons = [_why_not_layer(layer) for _, layer in layers]
    if not _begins_linear(layers):
        reasons.append("it does not begin with a linear layer")
    parameters = [p for _, layer in layers for p in layer.parameters()]
    if len({id(p) for p in parameters}) < len(parameters):
        reasons.append("layers share a parameter")
    return next(filter(None, reasons), "")


def _begins_linear(layers: list[tuple[str, nn.Module]]) -> bool:
    first = layers[0][1] if layers else None
    return isinstance(first, nn.Linear) or (isinstance(first, Beside) and _begins_linear(stackable_layers(first.inner)))


def _why_not_layer(layer: nn.Module) -> str:
    if isinstance(layer, Beside):
        return next(filter(None, (_why_not_layer(inner) for _, inner in stackable_layers(layer.inner))), "")
    if is_circuit(layer):
        if layer.simulator != "statevector":
            return f"its circuit runs on {layer.simulator}"
        adjoint = layer.diff_method == "adjoint" and layer.executor in ("auto", "numba")
        return "" if adjoint and layer.program.readout is None else "its circuit has a method or readout of its own"
    if isinstance(layer, (nn.Linear, TrigonometricFeatures)) or _function(layer) is not None:
        return ""
    return f"{type(layer).__name__} is not among the kernel's functions"


def _function(layer: nn.Module) -> int | None:
    """The kernel's number of an elementwise function."""
    if isinstance(layer, Squash):
        from qtl_utils.circuits.ansatze import half_pi_tanh, unchanged

        known = {half_pi_tanh: kernels.HALF_PI_TANH, torch.atan: kernels.ATAN, unchanged: kernels.IDENTITY}
        return known.get(layer.function)
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        return None
    return ELEMENTWISE.get(type(layer))


class FusedHeads:
    """R modules of one shape and their optimiser, trained and evaluated by `fused_kernels`.

    `parameters`: by name, (R, ...), views of one array in which the parameters of a replica lie together.
    """

    path = "fused"

    def __init__(self, modules: list[nn.Module], samples: Samples, rates: Sequence[Rates], config: TrainConfig):
        self.config = config
        self.table = samples.table
        self.labels = np.ascontiguousarray(samples.labels, np.int64)
        self.first = np.ascontiguousarray(samples.first[:, 0], np.int64)
        self.replicas = len(modules)
        self.batch = config.batch_size
        first = modules[0]
        dtype = next(first.parameters()).dtype
        self.kind = KINDS[dtype]
        self.lanes = self.kind.lanes
        tensors = [dict(m.named_parameters()) | dict(m.named_buffers()) for m in modules]
        self.places, width = _places(tensors[0])
        self.numbers = torch.zeros(self.replicas, 4, width, dtype=dtype)  # parameters, 2 moments, the best ones
        names = {name for name, _ in first.named_parameters()}
        views = {name: self._view(name, tensor.shape) for name, tensor in tensors[0].items()}
        for r, of_module in enumerate(tensors):
            for name, tensor in of_module.items():
                views[name][r] = tensor.detach()
        self.parameters = {name: view for name, view in views.items() if name in names}
        self.rates = np.array([(r.classical, r.quantum) for r in rates])
        self.counts = [0, 0]  # updates so far, of classical parameters and of angles
        self.epochs = 0
        # right answers and loss of every replica's best epoch, and how many epochs ago it was
        self.score = np.tile([-1.0, np.inf, 0.0], (self.replicas, 1))
        plan = _Plan(self.places, first, self.table.shape[1])
        # in a circuit, replicas with few samples share the lanes of a vector; else one alone stays in the cache
        self.group = max(1, self.lanes // self.batch) if plan.programs else 1
        self._lay_out(plan)

    def _view(self, name: str, shape: torch.Size) -> torch.Tensor:
        start = self.places[name]
        return self.numbers[:, 0, start : start + shape.numel()].view(self.replicas, *shape)

    def _lay_out(self, plan: "_Plan") -> None:
        """Writes down the plan as the kernels read it: the head, its operations and its values."""
        rows = self.group * self.batch
        samples = max(rows, EVALUATED)
        itemsize = self.numbers.itemsize
        reserve = _Memory()
        vectors = self.lanes * -(-samples // self.lanes)
        values = [(0, 0)] + [
            (reserve(vectors * width, itemsize), reserve(rows * width, itemsize)) for width in plan.widths[1:]
        ]
        n_weights = max((program.n_weights for _, program in plan.programs), default=0)
        scratch_bytes = 0
        for operation, program in plan.programs:
            schedule = schedule_of(program).plans[self.numbers.dtype]
            blocks = -(-rows // self.lanes)
            keeps = blocks * schedule.block_bytes <= KEPT_BYTES
            operation[kernels.HEADER] = schedule.address
            operation[kernels.STRIDE] = schedule.block_bytes if keeps else 0
            operation[kernels.STATES] = reserve(schedule.block_bytes * (blocks if keeps else 1), 1)
            scratch_bytes = max(scratch_bytes, schedule.scratch_bytes)
        fields = range(kernels.N_FIELDS)
        self.operations = np.array([[int(o.get(field, 0)) for field in fields] for o in plan.operations], np.int64)
        self.values = np.array(values, np.int64)
        head = {
            kernels.OPERATIONS: self.operations.ctypes.data,
            kernels.N_OPERATIONS: len(self.operations),
            kernels.VALUES: self.values.ctypes.data,
            kernels.RESULT: plan.result,
            kernels.CLASSES: plan.widths[plan.result],
            kernels.N_PARAMETERS: self.numbers.shape[2],
            kernels.STRIDE_OF_REPLICA: self.numbers.stride(0),
            kernels.AT_ONCE: EVALUATED,
            kernels.SUMS: reserve(8, VECTOR_BYTES),
            kernels.SAMPLES: reserve(samples),
            kernels.OTHERS: reserve(samples),
            kernels.ANGLES: reserve(self.group * n_weights, itemsize),
            kernels.SLOPES: reserve(self.group * n_weights, itemsize),
            kernels.PARTS: reserve(rows * n_weights, itemsize),
            kernels.SCRATCH: reserve(scratch_bytes, 1),
        }
        self.head = np.array([head[position] for position in range(len(head))], np.int64)
        self.programs = [program for _, program in plan.programs]  # the kernels read their schedules
        self.classes = plan.widths[plan.result]
        self.memory_bytes = reserve.size + 64

    # ---- work

    def train(self, batches: np.ndarray, decays: Sequence, chosen: np.ndarray | None) -> np.ndarray:
        """Trains the epochs of `batches` and looks at the samples `chosen` after each, as `TorchHeads.train` does.

        Raises ValueError where an angle is not finite.
        """
        epochs, steps = batches.shape[:2]
        history = np.zeros((self.replicas, epochs, 2, 2))
        factors = np.stack([self._factors(steps, decay) for decay in decays])
        chosen = np.zeros((self.replicas, 0), int) if chosen is None else chosen
        given = (
            self.labels,
            self.first,
            *map(np.ascontiguousarray, (batches, chosen)),
            self.config.reduction == "mean",
            self.config.loss == "squared",
            *(self.numbers[:, k].data_ptr() for k in range(4)),
            factors,
            self.rates,
            history,
            self.score,
        )

        def work(first, last):
            return kernels.train(*self._place(), *given, (first, last), self.group)

        if spread(work, -(-self.replicas // self.group), ALWAYS):
            raise ValueError(NOT_FINITE)
        self.epochs += epochs if chosen.shape[1] else 0
        return history

    @property
    def best_epoch(self) -> np.ndarray:
        """The epoch (R,), counted from 1, that did best on the chosen samples."""
        return self.epochs - self.score[:, 2].astype(int)

    def evaluate(self) -> np.ndarray:
        """Logits (R, N, K) of all samples. Raises ValueError where an angle is not finite."""
        n = len(self.labels)
        out = self.table.new_empty(self.replicas, n, self.classes)
        given = self.first, n, self.numbers.data_ptr(), out.data_ptr()

        def work(first, last):
            return kernels.evaluate(*self._place(), *given, (first, last))

        if spread(work, self.replicas, ALWAYS):
            raise ValueError(NOT_FINITE)
        return out.double().numpy()

    def load_best(self) -> None:
        """Takes the parameters of the best epoch."""
        self.numbers[:, 0] = self.numbers[:, 3]

    def _place(self) -> tuple:
        """The head, the memory of this thread and the table, as the kernels are given them."""
        row_bytes = self.table.stride(0) * self.table.itemsize
        memory = scratch(self.memory_bytes)
        return self.kind, self.head.ctypes.data, memory.data_ptr(), self.table.data_ptr(), row_bytes

    def _factors(self, steps: int, decay) -> np.ndarray:
        """What an update is made of, (steps, 2, N_FACTORS): see `fused_kernels`."""
        config = self.config
        factors = np.zeros((steps, 2, kernels.N_FACTORS))
        for group, name in enumerate(("classical", "quantum")):
            part = factors[:, group]
            factor = decay[name] if isinstance(decay, dict) else decay
            if not factor:
                part[:, kernels.RESTS] = 1
                continue
            count = self.counts[group] + np.arange(1, steps + 1)
            self.counts[group] += steps
            if config.optimizer == "sgd":
                part[:, kernels.M_OLD] = config.momentum
                part[:, kernels.M_NEW] = 1
                part[:, kernels.SCALE] = factor
                continue
            beta1 = 0.9
            part[:, kernels.ADAPTIVE] = 1
            part[:, kernels.M_OLD] = beta1
            part[:, kernels.M_NEW] = 1 - beta1
            part[:, kernels.V_OLD] = config.beta2
            part[:, kernels.V_NEW] = 1 - config.beta2
            root = np.sqrt(1 - config.beta2**count)
            part[:, kernels.SCALE] = factor / (1 - beta1**count)
            if config.optimizer == "adam":
                part[:, kernels.ROOT] = 1 / root
                continue
            # PennyLane adds eps before the bias correction; in 0.7 the first moments are those of the first gradient
            part[:, kernels.SCALE] *= root
            part[:, kernels.ROOT] = 1
            if config.optimizer == "adam-pl07":
                whole = count == 1
                part[whole, kernels.M_OLD] = 0
                part[whole, kernels.M_NEW] = 1
                part[whole, kernels.V_OLD] = 0
                part[whole, kernels.V_NEW] = 1
        return factors


def _places(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, int], int]:
    """Where each tensor begins in the row of a replica, on whole vectors, and how long the row is."""
    places = {}
    size = 0
    for name, tensor in tensors.items():
        places[name] = size
        size += -(-tensor.numel() // 16) * 16
    return places, size + 16


class _Plan:
    """Operations and values of a head, and where in the memory of a thread they lie."""

    def __init__(self, places: dict[str, int], module: nn.Module, n_features: int):
        self.places = places
        self.trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self.angles = circuit_angles(module)
        self.operations = []  # dicts of fields
        self.programs = []  # (operation, program) of circuits
        self.widths = []  # of values
        self.learns = []  # whether a value depends on anything that is trained
        self.value(n_features, False)
        self.result = self.chain(stackable_layers(module), 0)

    def value(self, width: int, learns: bool) -> int:
        self.widths.append(width)
        self.learns.append(learns)
        return len(self.widths) - 1

    def operation(self, what: int, source: int, target: int, **fields) -> dict:
        found = {
            kernels.OPERATION: what,
            kernels.SOURCE: source,
            kernels.WIDTH: self.widths[source],
            kernels.TARGET: target,
            kernels.OUT: self.widths[target],
            kernels.DOWN: self.learns[source],
        }
        found |= {getattr(kernels, name): value for name, value in fields.items()}
        self.operations.append(found)
        return found

    def chain(self, layers: list[tuple[str, nn.Module]], source: int) -> int:
        """Adds the operations of `layers` from the value `source` on; returns the value that comes out."""
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                source = self.linear(name, layer, source)
            elif isinstance(layer, Beside):
                source = self.beside(name, layer, source)
            elif is_circuit(layer):
                source = self.circuit(name, layer, source)
            elif isinstance(layer, TrigonometricFeatures):
                target = self.value(3 ** self.widths[source], self.learns[source])
                self.operation(kernels.PRODUCTS, source, target)
                source = target
            else:
                target = self.value(self.widths[source], self.learns[source])
                self.operation(kernels.ELEMENTWISE, source, target, FUNCTION=_function(layer))
                source = target
        return source

    def linear(self, name: str, layer: nn.Linear, source: int) -> int:
        weight = f"{name}weight"
        bias = f"{name}bias"
        trained = weight in self.trained
        bias_trained = bias in self.trained
        target = self.value(layer.out_features, self.learns[source] or trained or bias_trained)
        places = {"WEIGHT": self.places[weight], "BIAS": self.places.get(bias, -1)}
        self.operation(kernels.LINEAR, source, target, TRAINED=trained, BIAS_TRAINED=bias_trained, **places)
        return target

    def circuit(self, name: str, layer: nn.Module, source: int) -> int:
        weights = f"{name}weights"
        program = layer.program
        trained = weights in self.trained
        target = self.value(len(program.words), self.learns[source] or trained)
        fields = {"WEIGHT": self.places[weights], "N_WEIGHTS": program.n_weights, "RATE": weights in self.angles}
        found = self.operation(kernels.CIRCUIT, source, target, TRAINED=trained, **fields)
        self.programs.append((found, program))
        return target

    def beside(self, name: str, layer: Beside, source: int) -> int:
        # its backward pass comes last and adds to what the inner layers wrote
        branch = self.operation(kernels.BRANCH, source, source)
        inner = self.chain(stackable_layers(layer.inner, f"{name}inner."), source)
        target = self.value(self.widths[source] + self.widths[inner], self.learns[inner])
        self.operation(kernels.BESIDE, source, target, INNER=inner)
        branch |= {kernels.TARGET: target, kernels.OUT: self.widths[target]}
        return target


class _Memory:
    """Bytes given away one behind the other, each part on whole vectors and with a vector to spare."""

    def __init__(self):
        self.size = 0

    def __call__(self, count: int, itemsize: int = 8) -> int:
        start = self.size
        self.size += -(-count * itemsize // 64) * 64 + 64
        return start
