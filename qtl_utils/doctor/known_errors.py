"""The error messages that the doctor knows: what each looks like, its cause, what mends it; and where it was raised."""

from dataclasses import dataclass

# libraries that build, run or differentiate circuits
CIRCUIT_LIBRARIES = r"(pennylane|qiskit|torchquantum|tensorcircuit|cirq|qtl_utils\.circuits)"

# where an exception was raised: name -> the module and name of a library's function that the user's last line led to
PLACES = {
    "torch.compile": r"torch\._(dynamo|inductor|functorch)\.",
    "a TorchLayer": r"pennylane\.qnn\.torch\.",
    "the gradient of a circuit": r"(pennylane|qiskit\w*)\.(gradients|workflow\.(jacobian_products|interfaces))\.",
    "a template": r"pennylane\.templates\.",
    "a circuit": rf"{CIRCUIT_LIBRARIES}[._]",
    "a loss": r"torch\.nn\.(modules\.loss|functional\.\w*(loss|cross_entropy|kl_div))\b",
}
# `messages` finds four more by other means: "a circuit's function" is one that a QNode called, "a hybrid model" has a
# circuit beside the line that raised, "a line with .grad" says what it is, and with "no traceback" the text is all
HYBRID = "a circuit or a circuit's function or a hybrid model"
HYBRID_OR_TEXT = f"{HYBRID} or no traceback"


@dataclass(frozen=True)
class KnownError:
    """A message (regular expression on "Type: text"), its cause, what mends it, and where that is explained.

    frames: where it must have been raised for the cause to hold, a name of PLACES or several joined by " or "; empty
    where the text says enough. Of several rows that fit, the first is taken: narrow ones stand before wide ones.
    plain: cause and fix instead, where there is a traceback and no circuit in sight.
    """

    pattern: str
    cause: str
    fix: str
    section: str = "simulators#errors"
    frames: str = ""
    plain: tuple[str, str] | None = None


# ---- what a circuit is given -----------------------------------------------------------------------------------------

INPUTS = (
    KnownError(
        r"wires not found on the device|Did not find some of the wires|observable wires .* do not exist"
        r"|Wire with label .* not found|^WireError: .*not found|circuit and device wires"
        r"|subset wires|wire_order must contain|CircuitError.*[Ii]ndex \d+ out of range",
        "the circuit loops over the samples of a batch instead of the features, or its device has too few wires",
        "inputs[..., i] for i in range(n_qubits), not enumerate(inputs); or qml.device(name, wires=n_qubits)",
        "gradients#batch",
    ),
    KnownError(
        r"(must|ha(s|ve) to) .*\b(norm|length)\b.{0,80}\b(nan|0\.0+)\b",
        "amplitude embedding divides by the length of the feature vector, and a vector is all zeros or holds NaN",
        "x + 1e-8 before qml.AmplitudeEmbedding(..., normalize=True); torch.isfinite(x).all() to find NaN",
    ),
    KnownError(
        r"norm(\(s\))? 1\.0|vector of (length|norm) 1|must (have|be of) norm"
        r"|normalize=True' to|amplitudes-squared|superposition must be normalized",
        "amplitudes of a state must have length 1, and the features that are embedded were not normalised",
        "qml.AmplitudeEmbedding(x, wires=range(n), normalize=True, pad_with=0.0); in Qiskit x / np.linalg.norm(x)",
    ),
    KnownError(
        "'pad(_with)?' argument|smaller to be padded|[Ss]tate( vectors?)? must be of length"
        "|must have a last axis of size|statevector length not a|feature_dimension must be a power",
        "amplitude embedding takes 2**n_qubits numbers, and was given another count of features",
        "qml.AmplitudeEmbedding(x, wires=range(n), pad_with=0.0, normalize=True) with 2**n >= number of features",
    ),
    KnownError(
        "[Ff]eatures must be (at most )?of (length|size)",
        "an angle embedding takes one feature per wire, and was given another count of features",
        "nn.Linear(n_features, n_qubits) before the circuit, or as many wires as there are features",
    ),
    KnownError(
        "Basis states? must only|elements of the basis states must",
        "basis embedding takes bits, and was given other numbers",
        "(x > 0).int(), or qml.AngleEmbedding for real features",
    ),
    KnownError(
        "(Features|[Ss]tate( vectors)?|state_vector) must be (a )?one-dimensional( tensor)?(, or| or|; got|; vector)",
        "an embedding takes a row of numbers per sample, and was given more dimensions, or a batch that it cannot take",
        "x.flatten(1) before the circuit; with qml.BasisEmbedding one sample at a time",
        "gradients#batch",
    ),
    KnownError(
        r"Weights tensor must|Weights must be a \w+-dimensional|layer weights must be of"
        r"|unexpected shape for one or more parameters|first dimension of all parameters"
        r"|Expected the parameters to have shape|Range sequence must|doesn't have the appropiate shape",
        "the shape of the weights does not fit the template for this number of wires and layers",
        'weight_shapes = {"weights": qml.StronglyEntanglingLayers.shape(n_layers, n_wires)}, or .shape of yours',
    ),
    KnownError(
        "Rotation option .* not recognized|did not recognize (method|local field)",
        "an option of the embedding has a name that it does not know",
        "qml.AngleEmbedding(x, wires=range(n), rotation='Y'): 'X', 'Y' or 'Z'",
    ),
    KnownError(
        r"wrong number\(s\) of dimensions in parameters",
        "a gate takes one angle, or one per sample, and was given a whole tensor of features or weights",
        "qml.RX(inputs[..., i], wires=i) for every i, or qml.AngleEmbedding(inputs, wires=range(n))",
        "gradients#batch",
    ),
    KnownError(
        "broadcasted dimensions do not match|batch sizes of the quantum script",
        "gates of one circuit were given batches of different sizes: some indices pick samples, others pick features",
        "inputs[..., i] picks a feature of all samples; weights[i] an angle; never inputs[i]",
        "gradients#batch",
    ),
    KnownError(
        r"wrong number of parameters\. ",
        "a gate was given another number of angles than it has",
        "qml.RX(angle, wires=i) has one, qml.Rot(a, b, c, wires=i) three; a tensor of angles is one argument",
    ),
    KnownError(
        r"wrong number of wires|cannot be defined for less than|Must specify the wires"
        r"|requires (the|an even) number of qubits|[Ww]ires must be unique"
        r"|number of qubits (must|to) be greater|control wires must be different"
        r"|duplicate (qubit|bit) arguments|__init__\(\) (got multiple values|missing .*)\W+(for )?argument:? 'wires'",
        "a gate or template was given too few wires, too many, or one of them twice",
        "qml.CNOT(wires=[0, 1]), qml.RX(angle, wires=0): as many different wires as the gate acts on, by keyword",
    ),
    KnownError(
        "Wires must be hashable|not a valid wire label|Wires object; got",
        "a tensor or a measured value stands where the name of a wire is expected",
        "wires=int(i), and the angle first: qml.RX(angle, wires=i); measured values go to qml.cond or qml.expval(m)",
    ),
    KnownError(
        r"(index -?\d+ is out of bounds for (dimension|axis)"
        r"|too many indices for (tensor|array)|list index out of range)",
        "the circuit asks for an input or a weight beyond those that it was given",
        "inputs[..., i] with i < inputs.shape[-1]; weight_shapes as large as the loops of the circuit",
        "gradients#batch",
        frames="a circuit's function",
    ),
    KnownError(
        r"size of tensor a|could not be broadcast|mismatch in its core dimension|einsum\(\)",
        "gates of one circuit were given features and weights that do not fit: one is a batch of another size",
        "inputs[..., i] picks a feature of all samples, weights[i] one angle: print the shape of both in the circuit",
        "gradients#batch",
        frames="a circuit",
    ),
    KnownError(
        r"shape '\[.*\]' is invalid for input of size",
        "the circuit gave another number of results than the batch has samples: its gates do not take the batch",
        "inputs[..., i] in every gate, not inputs[i]; or call the layer for one sample at a time",
        "gradients#batch",
        frames="a TorchLayer",
    ),
)

# ---- how a layer is made of a circuit --------------------------------------------------------------------------------

LAYERS = (
    KnownError(
        "must include an argument with name|argument should not have its dimension specified in",
        "a TorchLayer hands the batch to the circuit's argument 'inputs', which must be there and is no weight",
        "def circuit(inputs, weights): ..., and weight_shapes without 'inputs'",
    ),
    KnownError(
        r"Must specify a shape for every non-input parameter|TorchLayer\.__init__\(\) (missing|got)",
        "a TorchLayer is made of a QNode and weight_shapes, which must name every argument of the circuit but 'inputs'",
        'qml.qnn.TorchLayer(circuit, {"weights": (n_layers, n_qubits)}) for def circuit(inputs, weights)',
    ),
    KnownError(
        "Cannot have a variable number of positional arguments",
        "a TorchLayer needs to know the arguments of the circuit by name, and *args has none",
        "def circuit(inputs, weights): ... without *args",
    ),
    KnownError(
        "'QNode' object has no attribute '(qtape|tape|_tape"
        "|expansion_strategy|max_expansion|specs|draw|metric_tensor)'",
        "this attribute of a QNode went with an old version of PennyLane",
        "qml.workflow.construct_tape(circuit)(x, weights), qml.specs(circuit)(...), qml.draw(circuit)(...)",
    ),
    KnownError(
        "'(QNode|TorchLayer|TorchConnector)' object has no attribute",
        "neither the layer nor its QNode, which a TorchLayer asks for what it lacks, has this attribute",
        "layer.qnode_weights['weights'], layer.qnode.device; connector.weight; dict(layer.named_parameters())",
    ),
    KnownError(
        "'QNode' object is not (iterable|subscriptable)"
        "|'(function|QNode)' object has no attribute '(parameters|train|eval|state_dict|to|named_parameters)'",
        "a circuit or function stands where its result, or a layer of torch, is expected",
        "circuit(x, weights) for the result; qml.qnn.TorchLayer(circuit, weight_shapes) for a layer",
    ),
    KnownError(
        r"TypeError: (?!.*__init__).*\(\) (missing \d+ required"
        r"|got an unexpected keyword|got multiple values|takes \d+ positional)",
        "the circuit was called with other arguments than its function takes",
        "the names in weight_shapes are those of def circuit(inputs, weights); circuit(x, weights) by itself",
        frames="a circuit",
    ),
    KnownError(
        r"forward\(\) (takes|missing|got)",
        "the model's forward takes another number of inputs than it was handed",
        "def forward(self, x, more) and model(x, more); nn.Sequential hands on one tensor only",
    ),
    KnownError(
        r"[Mm]odule before Module\.__init__|parameters? before Module\.__init__",
        "a layer was assigned before torch had set the module up",
        "super().__init__() as the first line of __init__",
    ),
    KnownError(
        r"missing the required \"forward\" function",
        "the module has no forward: it is missing, misspelled or indented into another function",
        "def forward(self, x): ... at the level of __init__",
    ),
    KnownError(
        r"is not a valid Interface|[Uu]nknown interface:? '?\w*(torch|keras|jax|autograd|numpy|tensor|tf)"
        r"|for TorchLayer|Interface must be one of|[Uu]ndifferentiable interface",
        "the interface of the QNode is not one that PennyLane and the layer know",
        '@qml.qnode(dev, interface="torch"), or leave interface out',
    ),
)

# ---- what a circuit returns ------------------------------------------------------------------------------------------

MEASUREMENTS = (
    KnownError(
        "quantum function must return|'Tensor' object has no attribute 'base'|Only Measurement Processes can be",
        "the function of the circuit returns something else than measurements: nothing, a tensor, an array or numbers",
        "return [qml.expval(qml.Z(i)) for i in range(n)], and compute with the values outside of the circuit",
    ),
    KnownError(
        "All measurements must be returned",
        "the circuit makes measurements that it does not return, such as those of another circuit that it calls",
        "return every qml.expval in order; call functions that place gates only, without measurements, inside",
    ),
    KnownError(
        r"(unsupported operand type|dtype of|data type of|but got|must be .* not).*\b[A-Z]\w+MP\b|'[A-Z]\w+MP' object",
        "inside of the circuit a measurement is no number yet, so that nothing can be computed with it there",
        "return qml.expval(...) as it is, and torch.stack(circuit(x, w), dim=-1) * 2 outside",
    ),
    KnownError(
        "unsupported operand .*'(Pauli[XYZ]|[XYZ]|Hadamard|Hermitian"
        "|Identity|Prod|Sum|SProd|LinearCombination|Hamiltonian)'",
        "an operator of PennyLane is combined with something that is no operator or number",
        "qml.Z(0) @ qml.X(1) + 0.5 * qml.Z(1); tensors as coefficients: qml.dot(coefficients, operators)",
    ),
    KnownError(
        r"finite shots are required|not accepted for analytic simulation.*\b(sample|counts|shadow)"
        r"|[Ss]hots are required|Measurement (sample|counts|classical_shadow|shadow)\w*\(.*not accepted for analytic"
        r"|Shots must be specified|Analytic execution is not supported|'one-shot' method",
        "samples, counts and shadows exist only with shots, and the circuit runs without",
        "circuit = qml.set_shots(circuit, 1000), or return qml.expval or qml.probs",
        "simulators#shots",
    ),
    KnownError(
        r"not accepted for analytic simulation|Observable .* not supported on|Observable must be"
        r"|not (an|a Hermitian) observable|does not support measuring|not supported for rotating"
        r"|Returning \w+ .*not currently supported|does not define diagonalizing gates",
        "what is measured is no observable that this device knows",
        "qml.expval(qml.Z(0)), products such as qml.Z(0) @ qml.X(1), or qml.Hermitian(matrix, wires) on default.qubit",
    ),
    KnownError(
        "not accepted with finite shots|Finite shots are not supported|(state|density matrix).*cannot be returned"
        "|Returning the state is not supported|not capable of returning the state|state is not available",
        "this measurement exists only without shots, such as the state itself, and the circuit runs with shots",
        "circuit = qml.set_shots(circuit, None), or return qml.probs or qml.expval",
        "simulators#shots",
    ),
    KnownError(
        "[Cc]annot specify the wires to|Cannot set the wires if",
        "a measurement was given both an observable and wires, though the observable has its wires already",
        "qml.probs(wires=[0, 1]) or qml.probs(op=qml.X(0))",
    ),
    KnownError(
        "qubit-wise commuting",
        "observables that do not commute are measured on the same wire, which one run with shots cannot do",
        "qml.transforms.split_non_commuting(circuit), or one circuit for each",
    ),
    KnownError(
        r"QueuingError|[Mm]id-circuit measurement.*not|cannot handle (mid-circuit|ControlFlow)"
        r"|mcm_method|MCM method|qp?(ml)?\.cond with a combination",
        "the circuit measures in its middle, or places gates, in a way that this device cannot run",
        "qml.defer_measurements(circuit), default.qubit, and m = qml.measure(0); qml.cond(m, qml.RX)(angle, wires=1)",
    ),
    KnownError(
        r"probabilit\w+ (do|does) not sum to 1|sum\(pvals\W|probability tensor contains"
        r"|[Pp]robabilities contain NaN|probabilities are not non-negative|pvals < 0",
        "shots are drawn from probabilities that do not add up to 1: features in float32 are rounded, or hold NaN",
        "x.double() before the embedding, and torch.isfinite(x).all() to find NaN",
        "simulators#precision",
        plain=(
            "the probabilities to draw from do not add up to 1, by rounding in float32, or hold NaN",
            "p = p.astype(np.float64); p /= p.sum(), and np.isfinite(p).all() to find NaN",
        ),
    ),
    KnownError(
        "[Ii]nput matrix is not unitary|must be unitary|matrix is not (Hermitian|positive semi)"
        "|[Oo]bservable must be hermitian|trace of the density matrix",
        "a matrix used as a gate, observable or state is not unitary or Hermitian, perhaps by rounding in float32",
        "build it in torch.complex128; (m + m.conj().T) / 2 is Hermitian, torch.linalg.qr(m).Q is unitary",
        "simulators#precision",
    ),
)

# ---- devices of PennyLane and what they can run ----------------------------------------------------------------------

SIMULATORS = (
    KnownError(
        r"Make sure the required plugin is installed|[Pp]re-compiled binaries for"
        r"|libcustatevec|lightning\w*_ops'? .*not found|No module named 'pennylane_"
        r"|plugin requires PennyLane versions|Can't instantiate abstract class \w*(Device|Qi?skit)",
        "the plugin that brings this device is not installed, or for another version of PennyLane",
        "pip install -U pennylane-lightning, pennylane-lightning-gpu or pennylane-qiskit; qml.about() lists devices",
    ),
    KnownError(
        r"(Gate|Operat\w+) \w*(Channel|Damping|BitFlip|PhaseFlip"
        r"|Kraus|Relaxation|PauliError|ResetError)\w*\b.*not supported",
        "noise makes mixed states, which a device of pure states cannot hold",
        'qml.device("default.mixed", wires=n), or no noise channel',
    ),
    KnownError(
        r"must be in the interval \[0,1\]|Invalid T_[12] relaxation",
        "the strength of a noise channel is a probability, and was given another number",
        "qml.DepolarizingChannel(p, wires=0) with p from 0 to 1, not trained beyond: torch.sigmoid(p)",
        frames="a circuit",
    ),
    KnownError(
        r"^DeviceError: (Gate|Operat\w+) .*not supported"
        r"|does not provide a decomposition|Reached recursion limit trying to decompose",
        "the device does not know this gate, nor how to make it of gates that it knows",
        'qml.transforms.decompose, other gates, or qml.device("default.qubit", wires=n)',
    ),
    KnownError(
        r"Shots can(not| no longer) be set|set_shots|Shots is an immutable"
        r"|device option \w+ not present|unexpected keyword argument '(analytic|shots|cache|mutable|h|order)'"
        r"|(Qubit|Mixed|Lightning\w*)\.__init__\(\) got an unexpected",
        "this option of a device or QNode is unknown or went with an old version of PennyLane",
        "circuit = qml.set_shots(circuit, 1000) for shots, None for exact results (once analytic=True)",
        "simulators#shots",
    ),
    KnownError(
        r"'\w*(Qubit|Mixed|Lightning|Device)\w*' object has no attribute '(shots|num_wires|_\w+|expand_fn"
        r"|reset|apply|capabilities|batch_execute|state)'|present in the legacy device interface",
        "devices of PennyLane lost this attribute with the new device interface (0.33)",
        "len(dev.wires), qml.set_shots(circuit, n); for the state a circuit that returns qml.state()",
    ),
    KnownError(
        "Device must be a valid PennyLane device",
        "a QNode was given something else than a device, such as its name or a torch device",
        'dev = qml.device("default.qubit", wires=n); qml.QNode(circuit, dev)',
    ),
    KnownError(
        r"computations on more than \d+ wires|maximum supported dimension for an ndarray"
        r"|tensor has too many \(>\d+\) dims|[Nn]umber of qubits \(\d+\).*(greater|exceeds)"
        r"|requires more qubits|support up to \d+ dim",
        "the circuit has more qubits than this simulator can hold",
        "fewer qubits: a narrower layer before the circuit, or several small circuits side by side",
        "simulators#memory",
        plain=(
            "an array has more dimensions than the library can hold",
            "print(x.ndim), x.flatten(1)",
        ),
    ),
)

# ---- how a circuit is differentiated ---------------------------------------------------------------------------------

DERIVATIVES = (
    KnownError(
        "gradient of broadcasted tapes",
        "parameter-shift, finite-diff, spsa and hadamard cannot differentiate a batch behind a trainable layer",
        "qml.transforms.broadcast_expand(qnode), or diff_method='backprop' or 'adjoint'",
        "simulators#broadcast",
    ),
    KnownError(
        r"does not support adjoint with requested circuit"
        r"|[Aa]djoint diff\w*.*(not support|only|shots|support)|not supported (using|with) the \W?adjoint\W? ",
        "adjoint differentiates expectation values without shots, not probabilities, states, samples or amplitudes",
        "return expectation values, or diff_method='backprop' (without shots) or 'parameter-shift' (with shots)",
        "simulators#adjoint",
    ),
    KnownError(
        r"does not support backprop|[Bb]ackprop\w* is only supported|only supports diff_method"
        r"|backprop\w*.*(shots|analytic)|native computations with autodifferentiation",
        "backprop needs a simulator written in torch and no shots",
        "default.qubit without shots, or diff_method='adjoint' or 'parameter-shift'",
        "simulators#adjoint",
    ),
    KnownError(
        "cannot be calculated with diff_method=None",
        "the QNode was made with diff_method=None, which switches differentiation off",
        "diff_method='best', 'backprop' or 'adjoint'; torch.no_grad() around the model where none is wanted",
        "simulators#method",
    ),
    KnownError(
        "does not provide a native method for computing the jacobian",
        "diff_method='device' asks the simulator for a gradient of its own, and it has none",
        "diff_method='backprop' or 'adjoint', or 'best'",
        "simulators#method",
    ),
    KnownError(
        "Grad only applies to real scalar-output",
        "a gradient is asked of something that is no single real number: a state, a density matrix or several outputs",
        "return one expectation value, or qml.jacobian; in torch a loss that is one number",
        "gradients#none",
    ),
    KnownError(
        r"ExecuteTapesBackward returned an invalid gradient",
        "a circuit has no gradient by the state it begins in: adjoint gives none by embedded amplitudes",
        "diff_method='backprop' behind a trainable layer, or features that need no gradient: x.detach()",
        "simulators#adjoint",
    ),
    KnownError(
        "Differentiation method .* not recognized|[Uu]nknown diff_method",
        "the differentiation method has another name or went with an old version",
        "diff_method='best', 'backprop', 'adjoint' or 'parameter-shift'",
        "simulators#method",
    ),
    KnownError(
        r"Computing the (gradient|Hessian)|Cannot differentiate with respect to"
        r"|[Hh]igher order derivatives|analytic gradient method cannot|unknown gradient method"
        r"|does not have (parameter frequencies|a generator)|device_vjp=True is not supported"
        r"|does not support \w+ with requested circuit|grad_recipe|Can only differentiate"
        r"|device derivatives|differentiable workflows|computation of (derivatives|vector-Jacobian)"
        r"|does not support (gradient_method|multiple measurements)|Parameter broadcasting is not",
        "this differentiation method has no rule for one of the gates, for what is measured or for a second derivative",
        "diff_method='backprop' on default.qubit without shots; with shots return qml.expval; max_diff=2 for Hessians",
        "simulators#adjoint",
    ),
    KnownError(
        "auxiliary wire|aux_wire",
        "the Hadamard test needs one wire that the circuit does not use, and the device has none",
        'qml.device("default.qubit", wires=n + 1), or diff_method="parameter-shift"',
        "simulators#method",
    ),
    KnownError(
        "IndexError: tuple index out of range",
        "no parameter of the circuit is trainable, so that there is no gradient to put together",
        "leave one parameter trainable (requires_grad=True), or with torch.no_grad(): around the circuit",
        "gradients#none",
        frames="the gradient of a circuit",
    ),
    KnownError(
        "IndexError: tuple index out of range",
        "the weights have fewer dimensions than the template takes: StronglyEntanglingLayers wants (layers, wires, 3)",
        'weight_shapes = {"weights": qml.StronglyEntanglingLayers.shape(n_layers=..., n_wires=...)}, of your template',
        "gradients#batch",
        frames="a template",
    ),
    KnownError(
        "IndexError: tuple index out of range",
        "a tensor has fewer dimensions than the circuit's library expects, such as a single number for a row of them",
        "print(x.shape) before the circuit: (batch, features)",
        "gradients#batch",
        frames="a circuit",
    ),
    KnownError(
        "Tensors contain mixed types|interfaces of 'a' and 'b' do not match",
        "one circuit was given tensors of torch and arrays of PennyLane's NumPy (or JAX)",
        "torch.as_tensor(array) for all of them; import numpy as np, not from pennylane import numpy",
        "gradients#detached",
    ),
)

# ---- the graph of torch ----------------------------------------------------------------------------------------------

GRAPH = (
    KnownError(
        "backward through the graph a second time",
        "backward ran twice through one graph: a hidden state was kept from the last batch, or a loss is used twice",
        "self.h = self.h.detach() after every batch; retain_graph=True only where two losses share a graph",
        "gradients#detached",
    ),
    KnownError(
        "modified by an inplace operation",
        "a value that the gradient still needs was overwritten in place, as by x *= 2, x[i] = y or relu_",
        "x = x * 2 makes a new tensor; collect rows in a list and torch.stack(rows)",
        "gradients#detached",
    ),
    KnownError(
        "leaf [Vv]ariable.* in-place|view of a leaf|in-?place operation.*leaf",
        "a parameter was written to in place while its gradient is recorded",
        "with torch.no_grad(): weights.mul_(0.1), or nn.init.uniform_(weights)",
        "gradients#detached",
    ),
    KnownError(
        "does not require grad and does not have a grad_fn|differentiated Tensors does not require grad",
        "the graph is cut before the loss, by torch.tensor, as_tensor, .item(), .detach() or NumPy, or all is frozen",
        "build outputs with torch.stack instead of torch.tensor, .item() or NumPy; set requires_grad",
        "gradients#detached",
    ),
    KnownError(
        "finished reduction in the prior iteration",
        "some parameters had no part in the loss, for which DistributedDataParallel waits in vain",
        "DistributedDataParallel(model, find_unused_parameters=True), or without these parameters",
        "gradients#dead",
    ),
    KnownError(
        "not have been used in the graph",
        "a gradient is asked for something that the result does not depend on, or that was cut off on the way",
        "allow_unused=True, and look for None; no .detach() or torch.tensor on the way",
        "gradients#none",
    ),
    KnownError(
        "grad can be implicitly created only for real scalar",
        "the loss is a complex number: a state or amplitude reached it",
        "a real loss, such as (state.abs() ** 2).sum() or an expectation value",
        "simulators#dtype",
        plain=(
            "the loss is a complex number",
            "a real loss, such as (x.abs() ** 2).sum()",
        ),
    ),
    KnownError(
        "implicitly created only for scalar outputs|grad_output.*shape",
        "backward starts from one number, and this has several: the loss was not averaged over the batch",
        "loss.mean().backward()",
        "gradients#batch",
    ),
    KnownError(
        r"Can't call numpy\(\) on Tensor that requires grad",
        "NumPy leaves the graph, so torch refuses",
        "torch's functions on tensors that need gradients; x.detach().numpy() for plots",
        "gradients#detached",
    ),
    KnownError(
        "can't optimize a non-leaf|optimizer got an empty parameter list",
        "the optimiser was given no parameters of the model: none are registered, or they are results of a computation",
        "self.weights = nn.Parameter(torch.rand(n)), lists in nn.ModuleList, then Adam(model.parameters())",
        "optimisation#groups",
    ),
    KnownError(
        "more than one parameter group",
        "the same parameters were given to the optimiser twice",
        "leave them out of one of the groups",
        "optimisation#groups",
    ),
    KnownError(
        r"change requires_grad flags of leaf|support the deepcopy protocol|as parameter .*nn\.Parameter or None",
        "a tensor that was computed stands where torch wants a parameter or a plain tensor",
        "nn.Parameter(tensor.detach()); self.last = out.detach() where a module keeps its output",
        "gradients#detached",
    ),
    KnownError(
        "Only Tensors of floating point",
        "only floating point numbers have gradients, and these are whole",
        "x.float() before requires_grad_()",
        "simulators#dtype",
    ),
    KnownError(
        "returned an invalid gradient|incorrect number of gradients|non-static forward method",
        "a backward of one's own gives gradients unlike its inputs, or a tensor changed its shape in place (.data)",
        "in backward one gradient per argument of forward, in its shape, or None; x = x.reshape(...), not x.data",
        "gradients#wrong",
    ),
    KnownError(
        "returned nan values in its|non-finite values|failed to converge"
        "|array must not contain infs or NaNs|[Ii]nput .*contains NaN",
        "a NaN or infinity came up: in the data, or by dividing by zero, log(0), arccos or sqrt at their ends",
        "torch.isfinite(x).all() layer by layer; clamp(min=1e-8) before log, sqrt and division",
        "gradients#wrong",
    ),
    KnownError(
        "the derivative for 'target' is not implemented",
        "labels reach the loss as if they were trainable, or outputs and labels changed places",
        "loss(outputs, labels), labels.detach()",
        "evaluation#labels",
    ),
    KnownError(
        "derivative (for|of) .* (is )?not implemented|no autograd formula",
        "one step between parameters and loss has no derivative in torch",
        "another function of torch for this step; torch.autograd.Function for a derivative of your own",
        "gradients#detached",
    ),
    KnownError(
        "data pointer of Tensor|functorch|vmap|Batching rule",
        "torch.func (vmap, grad) runs on stand-ins for tensors, which NumPy and most other libraries cannot read",
        "hand over the batch as it is; torch.autograd.grad instead of torch.func",
        "gradients#detached",
    ),
    KnownError(
        "Inference tensors",
        "a tensor made under torch.inference_mode takes part in training",
        "torch.no_grad() instead of torch.inference_mode(), or x.clone()",
        "gradients#detached",
    ),
    KnownError(
        r"'NoneType' object has no attribute '(data|zero_|norm|abs|detach|item|mean|clone"
        r"|shape|cpu|numpy|max|view|flatten|square|pow|is_sparse)'|type\(s\) for .*'NoneType'",
        "a parameter has no gradient: nothing leads from it to the loss, or backward has not run",
        "[name for name, p in model.named_parameters() if p.grad is None] names them",
        "gradients#none",
        frames="a line with .grad",
    ),
)

# ---- lists, arrays and tensors ---------------------------------------------------------------------------------------

OF_TENSORS = (
    r"(shape|size|dim|ndim|numel|dtype|device|float|double|long|half|to|type|cpu|cuda|numpy|item|clone|detach|backward"
    r"|requires_grad\w*|grad_fn|view|reshape|flatten|unsqueeze|squeeze|transpose|permute|T|contiguous|repeat|expand|chunk"
    r"|mean|sum|max|argmax|abs|log|softmax|log_softmax|sigmoid)"
)
LIST = (
    rf"'(list|tuple)' object has no attribute '{OF_TENSORS}'|must be Tensor, not (list|tuple)\b"
    r"|invalid combination of arguments - got \((list|tuple)\b"
)

LISTS = (
    KnownError(
        r"the model returns a \w+, not a tensor",
        "the loss needs one tensor of outputs",
        "return the outputs alone, or diagnose a module that picks them out",
        "gradients#batch",
    ),
    KnownError(
        LIST,
        "a TorchLayer takes one tensor, and was given a list or tuple: several inputs, or what an LSTM returns",
        "torch.cat([a, b], dim=-1) before it and inputs[..., :n] in the circuit; out, _ = self.lstm(x)",
        "simulators#lists",
        frames="a TorchLayer",
    ),
    KnownError(
        rf"{LIST}|(list|tuple) indices must be integers or slices, not tuple"
        r"|can't multiply sequence by|unsupported operand .*'(list|tuple)'",
        "since PennyLane 0.30 a QNode with several measurements returns a list of tensors; an LSTM returns a tuple",
        "torch.stack(list_of_outputs, dim=-1)",
        "simulators#lists",
        frames=HYBRID,
    ),
    KnownError(
        LIST,
        "a layer or function that takes one tensor was given a list or tuple: inputs or outputs were not joined",
        "torch.cat(inputs, dim=-1) before the layer, torch.stack(outputs, dim=-1) after it; out, _ = lstm(x)",
        "simulators#lists",
    ),
    KnownError(
        r"can't convert \w+(:\d+)? device type tensor to numpy",
        "NumPy reads the CPU's memory only, and the tensor is on a GPU: the simulator, or a line of yours, uses NumPy",
        "circuit(x.cpu(), w.cpu()).to(x.device), or default.qubit with diff_method='backprop', which stays on the GPU",
        "simulators#devices",
        plain=(
            "NumPy reads the CPU's memory only, and the tensor is on a GPU",
            "tensor.detach().cpu().numpy()",
        ),
    ),
    KnownError(
        r"'(numpy\.\w+|float|tensor|ArrayBox)' object has no attribute '(backward|detach|requires_grad_?|grad_fn"
        r"|dim|unsqueeze|to|cpu|cuda|float|view|item)'|must be Tensor, not (numpy\.)?(ndarray|float\w*|tensor)\b",
        "an array or a plain number stands where a tensor of torch is expected, and has no gradient",
        'torch.as_tensor(array, dtype=torch.float32); @qml.qnode(dev, interface="torch") and torch inputs',
        "gradients#detached",
        plain=(
            "an array or a plain number stands where a tensor of torch is expected, and has no gradient",
            "torch.as_tensor(array, dtype=torch.float32)",
        ),
    ),
    KnownError(
        "'Tensor' object has no attribute '(astype|copy|unwrap)'",
        "a tensor of torch was treated as an array of NumPy",
        "x.to(torch.float32) for astype, x.clone() for copy; x.detach().numpy() to leave torch",
        "gradients#detached",
    ),
    KnownError(
        r"Tracer\w*Error|traced array|[Aa]bstract tracer|ConcretizationTypeError",
        "JAX compiles with stand-ins for numbers, which NumPy, torch and if cannot read",
        "jax.numpy for NumPy, without jax.jit at first; or torch throughout",
        "gradients#detached",
    ),
    KnownError(
        r"SequenceBox|autograd\.builtins|ArrayBox",
        "PennyLane's NumPy differentiates arrays, and was given a tuple of results or a function of plain NumPy",
        "qml.math.stack(circuit(x)); from pennylane import numpy as np, or torch throughout",
        "simulators#lists",
        frames=HYBRID_OR_TEXT,
    ),
    KnownError(
        r"which has no callable \w+ method|ufunc .*(not supported|did not contain) for the input types",
        "a function of NumPy was called on tensors of torch or on objects",
        "torch.cos, torch.sqrt: the functions of torch on tensors of torch",
        "gradients#detached",
    ),
    KnownError(
        r"np\.ndarray of type numpy\.object_|[Cc]ould not infer dtype|inhomogeneous"
        r"|array element with a sequence|could not determine the shape of object type",
        "rows of different length, or things that are no numbers, cannot become one tensor",
        "torch.stack(list_of_tensors) keeps gradients; np.stack(rows) shows which row has another length",
        "simulators#lists",
    ),
    KnownError(
        "converted to (Python )?[Ss]calars?|must be real number, not (Tensor|list|tuple)|only (length|size)-1 arrays",
        "several values stand where one number is expected",
        "x.mean() or x[i]; keep tensors as tensors, with torch's functions instead of math's",
        "simulators#lists",
    ),
    KnownError(
        r"expected Tensor as element \d+ in argument|argument 'tensors' .*must be tuple of Tensors",
        "torch.stack and torch.cat take a list of tensors, and were given something else",
        "torch.stack([torch.as_tensor(v) for v in values]); a single tensor needs no stack",
        "simulators#lists",
    ),
    KnownError(
        r"zero-dimensional (tensor .*|arrays )cannot be concatenated"
        r"|iteration over a 0-d (tensor|array)|len\(\) of a 0-d tensor|index of a 0-dim tensor",
        "a tensor of one number, which has no dimensions, is treated as a row of numbers",
        "torch.stack instead of torch.cat; out.reshape(-1)",
        "simulators#lists",
    ),
    KnownError(
        "non-empty TensorList|at least one array to (stack|concatenate)",
        "an empty list is to be joined: the loop that fills it did not run",
        "print(len(values)) before that line; for x in batch, not for x in range(0)",
        "simulators#lists",
    ),
    KnownError(
        "stack expects each tensor to be equal size|Sizes of tensors must match|same number of dimensions: got",
        "tensors of different shapes are to be joined: results or samples that are not alike",
        "print([t.shape for t in tensors]); torch.cat([t.reshape(batch, -1) for t in tensors], dim=-1)",
        "simulators#lists",
    ),
    KnownError(
        r"expected np\.ndarray \(got",
        "torch.from_numpy takes arrays of NumPy only",
        "torch.as_tensor(x) takes lists, arrays and tensors",
        "simulators#lists",
    ),
    KnownError(
        rf"'dict' object has no attribute '{OF_TENSORS}'|(must be real number, not|unsupported operand.*)\W*dict",
        "a dictionary stands where a tensor is expected, such as several outputs of a model, or counts",
        "outputs['logits'] for one of several outputs; qml.probs or qml.expval instead of qml.counts",
        "simulators#lists",
        plain=(
            "a dictionary stands where a tensor is expected, such as several outputs of a model",
            "outputs['logits'] for one of several outputs",
        ),
    ),
    KnownError(
        "received an invalid combination of arguments",
        "a function of torch was given arguments of other types than it takes; the message lists both",
        "torch.as_tensor(array) for arrays and numbers, list(range(n)) for ranges",
        "simulators#lists",
    ),
    KnownError(
        "strides in the given numpy array is negative",
        "torch cannot read an array of NumPy that was flipped",
        "array.copy()",
        "simulators#lists",
    ),
)

# ---- types of numbers ------------------------------------------------------------------------------------------------

DTYPES = (
    KnownError(
        r"BFloat16|BComplex32|ComplexHalf|(found|got|type|and|for) '?Half\b|unscale FP16|c10::Half",
        "half precision, by autocast, .half() or .bfloat16(), met an operation that does not compute in it",
        'with torch.autocast("cuda", enabled=False): out = layer(x.float())',
        "simulators#precision",
    ),
    KnownError(
        r"Complex(Double|Float)|(type|dtype):? '?complex|DTYPE: complex"
        r"|complex(64|128)?\b.*(cast|convert|support|real)|convert complex"
        r"|[Cc]asting complex|not (supported|implemented).* complex|view_as_real",
        "a state or amplitude is complex, and the next layer, the loss or the cast is real",
        "qml.probs or qml.expval instead of qml.state, state.abs() ** 2, or torch.view_as_real(state).flatten(-2)",
        "simulators#dtype",
        plain=(
            "a tensor is complex, and the next layer, the loss or the cast is real",
            "x.abs(), x.real, or torch.view_as_real(x).flatten(-2)",
        ),
    ),
    KnownError(
        "not currently implemented for the MPS",
        "Apple's GPU lacks an operation that the model uses",
        "PYTORCH_ENABLE_MPS_FALLBACK=1 in the environment, or this part on the CPU",
        "simulators#devices",
    ),
    KnownError(
        "MPS (Tensor|framework|backend).*(float64|complex)|doesn't support float64",
        "Apple's GPU has no float64, which NumPy gives where nothing else is said",
        'x.float().to("mps"), and on the CPU what needs float64',
        "simulators#dtype",
    ),
    KnownError(
        r"\b(Byte|unsigned char)\b",
        "images are whole numbers, layers compute with floating point",
        "images.float() / 255",
        "simulators#dtype",
    ),
    KnownError(
        "for target with class probabilities",
        "labels have the shape of the outputs, so that cross-entropy takes them for probabilities",
        "labels.squeeze(-1) with one class number per sample, or one_hot.float()",
        "simulators#dtype",
    ),
    KnownError(
        r"expected target dtype|expected scalar type Long|nll_loss\w*\" not implemented|to be Long",
        "cross-entropy takes class numbers, which are whole",
        "labels.long()",
        "simulators#dtype",
    ),
    KnownError(
        "used as indices must be|only integer (tensors|scalar arrays)"
        "|'indices' to have one of the following scalar types",
        "an index picks by whole numbers, and was given others",
        "int(i), index.long()",
        "simulators#dtype",
    ),
    KnownError(
        r"(Found|found|got:?|type|for) '?(Long|Int|long int|Bool)\b",
        "whole numbers stand where floating point is expected: labels of a loss, or inputs of a layer",
        "labels.float(), x.float()",
        "simulators#dtype",
    ),
    KnownError(
        r"must have the same dtype|object of scalar type|expected (m1 and m2|scalar type|.*dtype)"
        r"|(but found|but expected) (Double|Float)|result type \w+ can't be cast"
        r"|type \((double|float)\) and (bias|weight) type|dtypes? (do not )?match",
        "float64 met float32: QNodes and NumPy give float64, layers are float32",
        "circuit_output.to(x.dtype) before the next layer, images.float(), labels.float()",
        "simulators#dtype",
        plain=(
            "float64 met float32: NumPy gives float64, layers are float32",
            "x.to(layer.weight.dtype), images.float(), labels.float()",
        ),
    ),
)

# ---- outputs, labels and losses --------------------------------------------------------------------------------------

LOSSES = (
    KnownError(
        LIST,
        "the loss needs one tensor of outputs, and was given a list or tuple",
        "torch.stack(list_of_outputs, dim=-1), or the one output that the loss is of",
        "simulators#lists",
        frames="a loss",
    ),
    KnownError(
        "size of tensor a .* must match the size of tensor b",
        "outputs and labels have different shapes",
        "print(outputs.shape, labels.shape); labels.view_as(outputs).float()",
        "gradients#batch",
        frames="a loss",
    ),
    KnownError(
        r"(Target|target) -?\d+ is out of bounds|Class values must be|t >= 0 && t < n_classes",
        "a label is larger than the number of outputs allows; labels count from 0",
        "as many outputs as classes, labels 0 ... classes - 1; (labels + 1) // 2 for labels -1 and 1",
    ),
    KnownError(
        "multi-target not supported|spatial targets supported|1D target tensor expected|0D or 1D",
        "cross-entropy takes one class number per sample, and was given a column or one-hot rows",
        "labels.squeeze(-1), or one_hot.argmax(1)",
        "gradients#batch",
    ),
    KnownError(
        "elements of target should be between 0 and 1",
        "the labels of binary cross-entropy are 0 or 1, and these are others, such as -1 or class 2",
        "(labels + 1) / 2 for labels -1 and 1; nn.CrossEntropyLoss() for more than two classes",
        "evaluation#labels",
    ),
    KnownError(
        "elements of input should be between 0 and 1|input_val >= (zero|0)",
        "binary cross-entropy takes probabilities from 0 to 1; expectation values lie in -1 to 1, logits anywhere",
        "nn.BCEWithLogitsLoss(), or p = (1 + expval) / 2",
        "optimisation#softmax",
        plain=(
            "binary cross-entropy takes probabilities from 0 to 1, and was given other numbers, such as logits",
            "nn.BCEWithLogitsLoss(), or torch.sigmoid(outputs)",
        ),
    ),
    KnownError(
        r"Target size .* must be the same as input size"
        r"|target size \(.*(different|same size)|Shapes don't match, predict",
        "outputs and labels have different shapes",
        "labels.view_as(outputs).float()",
        "gradients#batch",
    ),
    KnownError(
        r"to match target batch_size|batch_size \(\d+\) to match|inconsistent numbers of samples",
        "there are other numbers of outputs than of labels: the circuit or a reshape lost or multiplied the batch",
        "print(outputs.shape, labels.shape): (batch, classes) and (batch,); x.flatten(1), one number of shots",
        "gradients#batch",
        plain=(
            "there are other numbers of outputs than of labels: a reshape lost or multiplied the batch",
            "print(outputs.shape, labels.shape): (batch, classes) and (batch,); x.flatten(1), no view(-1, n)",
        ),
    ),
    KnownError(
        "mix of (binary|multiclass|continuous)|continuous(-multioutput)? (is not supported|targets)|Unknown label type",
        "a score of classes was given outputs instead of class numbers",
        "outputs.argmax(1) or (outputs > 0).long() before the score",
        "evaluation#labels",
    ),
    KnownError(
        "device-side assert",
        "an index is out of range on the GPU, most often a label beyond the classes or a BCE input outside of 0 to 1",
        "the same batch on the CPU names it: model.cpu(), images.cpu(), labels.cpu()",
    ),
    KnownError(
        "Expected more than 1 value per channel",
        "BatchNorm in train mode cannot normalise a batch of one",
        "drop or merge a last batch of one image",
        "evaluation#batchnorm",
    ),
)

# ---- shapes ----------------------------------------------------------------------------------------------------------

SHAPES = (
    KnownError(
        "shapes? cannot be multiplied|mat1 dim 1 must match|[Ss]ize mismatch, (m1:|got input)",
        "a layer was handed another number of features than it was made for; circuits give one per measurement",
        "nn.Linear(n_measurements, classes) after the circuit, nn.Linear(n_features, n_qubits) before it",
        "gradients#batch",
        frames=HYBRID,
    ),
    KnownError(
        "shapes? cannot be multiplied|mat1 dim 1 must match|[Ss]ize mismatch, (m1:|got input)",
        "a layer was handed another number of features than it was made for",
        "print(x.shape) before it; nn.Linear(x.shape[-1], ...), x.flatten(1) after convolutions",
        "gradients#batch",
    ),
    KnownError(
        "negative dimension",
        "a size that is a difference came out negative: there are more features than the state has amplitudes",
        "2**n_wires >= number of features: more wires, or a layer before the encoder",
        plain=(
            "a size that is a difference came out negative",
            "print both sizes before that line",
        ),
    ),
    KnownError(
        "dimensions of batch2|batch1 and batch2 must have same number of batches",
        "two batches of matrices differ in size: a state that was made for another batch meets the gates of this one",
        "make the state for each batch: q_device.reset_states(bsz=x.shape[0]) in torchquantum",
        "gradients#batch",
        plain=(
            "two batches of matrices differ in size",
            "print(a.shape, b.shape) before that line: (batch, n, m), (batch, m, k)",
        ),
    ),
    KnownError(
        r"size of tensor a|match the broadcast shape|must match the (existing )?size"
        r"|mismatch in its core dimension|could not be broadcast|shapes? .*(not aligned|mismatch)"
        r"|shape mismatch|is invalid for input of size|einsum\(\).*(does not|size)",
        "two tensors that are to be combined, or a tensor and its new shape, do not fit",
        "print(x.shape) before that line; the batch comes first: x.flatten(1), out.reshape(x.shape[0], -1)",
        "gradients#batch",
    ),
    KnownError(
        "view size is not compatible",
        "the numbers lie in memory in another order than view needs",
        "x.reshape(...) instead of x.view(...)",
        "gradients#batch",
    ),
    KnownError(
        r"[Dd]imension (specified as -?\d+ but|out of range)|(axis|dim) -?\d+ is out of bounds for array of dimension",
        "a tensor has fewer dimensions than expected: batch or classes were lost by an index, a sum or squeeze",
        "dim=-1, x.unsqueeze(0) for a single sample, squeeze(-1) instead of squeeze()",
        "gradients#batch",
    ),
    KnownError(
        r"[Ee]xpected input.* to have \d+ channels|Kernel size can't be greater|must be equal to input_size"
        r"|running_mean should contain|Expected \dD .*input|expected \dD (or \dD )?input",
        "a layer was handed images or rows of another shape than it was made for",
        "print(x.shape) before it: (batch, channels, height, width) for Conv2d; x.repeat(1, 3, 1, 1) for grey images",
        "gradients#batch",
    ),
    KnownError(
        "Boolean value of Tensor with more than one value|truth value of an array",
        "an if or a Python function asks whether a whole tensor is true",
        "(x > 0).all(), torch.where(x > 0, a, b); nn.MSELoss()(outputs, labels), not nn.MSELoss(outputs, labels)",
        "gradients#batch",
    ),
)

# ---- devices of torch and memory -------------------------------------------------------------------------------------

HARDWARE = (
    KnownError(
        r"in replica \d+ on device",
        "nn.DataParallel copies the model to every GPU, and what a circuit holds stays behind on the first",
        "one GPU, or DistributedDataParallel, which makes the model anew in every process",
        "simulators#devices",
        frames=HYBRID_OR_TEXT,
    ),
    KnownError(
        "Cannot re-initialize CUDA in forked",
        "worker processes that were forked after CUDA was used cannot use it",
        'DataLoader(..., num_workers=0), or torch.multiprocessing.set_start_method("spawn")',
        "simulators#devices",
    ),
    KnownError(
        "deserialize object on a CUDA device|deserialize object on CUDA",
        "the file was saved on a GPU and is read where there is none",
        'torch.load(file, map_location="cpu")',
        "simulators#saving",
    ),
    KnownError(
        "illegal memory access|unspecified launch failure|CUDNN_STATUS|CUBLAS_STATUS(?!_ALLOC)",
        "a computation on the GPU failed, often one that was started in an earlier line",
        "the same batch on the CPU, or CUDA_LAUNCH_BLOCKING=1, names the line; torch and driver must fit each other",
        "simulators#devices",
    ),
    KnownError(
        r"not compiled with CUDA|libcu(da|dart|blas|dnn|sparse)\w*\.so|no NVIDIA driver|CUDA driver version"
        r"|no kernel image|No CUDA GPUs|invalid device ordinal|Invalid device string"
        r"|device type at start of device string|CUDA (unknown )?error: (invalid device|initialization|unknown)",
        "torch finds no such device, or its build does not fit the GPU and its driver",
        'device = "cuda" if torch.cuda.is_available() else "cpu"; nvidia-smi and torch.version.cuda show what there is',
        "simulators#devices",
    ),
    KnownError(
        "out of memory|Unable to allocate|not enough memory|can't allocate memory"
        "|Cannot allocate memory|^MemoryError|bad_alloc|[Ii]nsufficient memory|ALLOC_FAILED",
        "a state has 2**n_qubits amplitudes, and backprop keeps one after every gate for every sample: too many",
        "diff_method='adjoint', a smaller batch, fewer qubits or gates; torch.no_grad() where nothing is trained",
        "simulators#memory",
        plain=(
            "this does not fit into memory",
            "a smaller batch; torch.no_grad() where nothing is trained; loss.item() for what is kept in lists",
        ),
    ),
    KnownError(
        "Cannot copy out of meta tensor",
        "a tensor on torch's device meta has a shape, but no numbers",
        "model.to_empty(device=device), then initialise or load its weights",
        "simulators#devices",
    ),
    KnownError(
        r"on the same device|two devices|on device meta|Tensor for argument .* is on|is on cpu, different"
        r"|device type cuda but got|torch\.cuda\.\w+\) and weight type \(torch\.\w+\)|weight type \(torch\.cuda"
        r"|either on cpu or on the same|device type for generator|Tensor on device \S+ is not on",
        "model, batch, optimiser state and what the circuit returns are on different devices",
        "move all of them: model.to(device), images.to(device), circuit_output.to(x.device)",
        "simulators#devices",
        plain=(
            "model, batch and other tensors are on different devices",
            "model.to(device) before the optimiser is made, images.to(device), labels.to(device)",
        ),
    ),
)

# ---- saving, copying and worker processes ----------------------------------------------------------------------------

PICKLE = r"([Cc]an't pickle|cannot pickle|[Cc]an't get local object|PicklingError)"
CIRCUITS_UNPICKLED = (
    "a circuit is a function made at run time and may hold a simulator, neither of which pickle, deepcopy or a worker "
    "process can copy"
)

SAVING = (
    KnownError(
        "Weights only load failed|weights_only",
        "since torch 2.6 torch.load reads tensors only, and this file holds a whole model or other objects",
        "torch.save(model.state_dict(), file) and load_state_dict; weights_only=False for files you trust",
        "simulators#saving",
    ),
    KnownError(
        r"(Missing|Unexpected) key\(s\)|size mismatch for|loading state_dict|copying a param with shape",
        "the file is of another architecture: other layers or sizes, or names with 'module.' or '_orig_mod.' before",
        "make the model with the settings of the saved one; {k.removeprefix('module.'): v for k, v in saved.items()}",
        "simulators#saving",
    ),
    KnownError(
        r"state_dict to be dict-like|'(collections\.)?OrderedDict' object has no attribute"
        r"|'dict' object has no attribute '(eval|to|train|parameters|state_dict)'"
        r"|object has no attribute 'copy'.*state_dict",
        "a state_dict is not the model: one is loaded into the other",
        "model = Net(); model.load_state_dict(torch.load(file))",
        "simulators#saving",
    ),
    KnownError(
        "[Cc]an't get attribute '.*' on|No module named .*__mp_main__",
        "what was pickled is looked up by name, in a file that does not define it",
        "class and functions in a module that both sides import; better torch.save(model.state_dict(), file)",
        "simulators#saving",
    ),
    KnownError(
        "invalid load key|PytorchStreamReader|Ran out of input|pickle data was truncated",
        "the file is no complete file of torch: cut off, empty, or of another kind",
        "save it again; torch.load takes the file that torch.save wrote",
        "simulators#saving",
    ),
    KnownError(
        rf"{PICKLE}.*([Pp]enny[Ll]ane|lightning|[Qq]iskit|QNode|[Cc]ircuit|qnode|_ops\.)",
        CIRCUITS_UNPICKLED,
        "torch.save(model.state_dict(), file), and load it into a newly made model; num_workers=0; make the QNode anew",
        "simulators#saving",
    ),
    KnownError(
        PICKLE,
        CIRCUITS_UNPICKLED,
        "torch.save(model.state_dict(), file), and load it into a newly made model; num_workers=0; make the QNode anew",
        "simulators#saving",
        frames=HYBRID,
    ),
    KnownError(
        PICKLE,
        "torch.save(model), deepcopy and worker processes pickle all that is held, and lambdas, modules or locks fail",
        "torch.save(model.state_dict(), file); def at the top of a module for lambda; DataLoader(..., num_workers=0)",
        "simulators#saving",
    ),
    KnownError(
        "refusing to serialize non-leaf",
        "a tensor that belongs to a graph cannot be sent to a worker process",
        "tensor.detach() in the data set; layers in the model rather than in the data set",
        "simulators#saving",
    ),
    KnownError(
        "finished its bootstrapping phase|freeze_support",
        "worker processes import the script, which starts workers itself",
        'if __name__ == "__main__": around what the script does, or DataLoader(..., num_workers=0)',
        "simulators#saving",
    ),
    KnownError(
        "DataLoader worker .*(exited|killed)|[Bb]us error|shared memory|unable to write to file </torch",
        "a worker process of the DataLoader died, mostly for want of memory",
        "DataLoader(..., num_workers=0) shows its error; fewer workers, smaller batches",
        "simulators#memory",
    ),
    KnownError(
        "Too many open files",
        "more files or shared tensors are open than the system allows, mostly those of worker processes",
        'torch.multiprocessing.set_sharing_strategy("file_system"), fewer workers, with open(...) as file',
    ),
    KnownError(
        "RecursionError|maximum recursion depth",
        "a function calls itself without end, such as a __getattr__ or forward that looks itself up",
        "the lines that repeat in the traceback name it; self.layer(x), not self(x)",
    ),
)

# ---- torch.compile and export ----------------------------------------------------------------------------------------

COMPILING = (
    KnownError(
        r"KeyError: .*\b(shape|stack|reshape|einsum|tensordot|cos"
        r"|sin),(\w+,)*(shape|stack|reshape|einsum|tensordot|cos|sin)\b",
        "torch.compile follows the code into the circuit's library, which picks its functions by name at run time",
        "self.circuit = torch.compiler.disable(self.circuit), or compile the classical layers only",
        "simulators#time",
        frames="torch.compile or no traceback",
    ),
    KnownError(
        r"[Dd]ynamo|torch\.compile|BackendCompilerFailed|InductorError|TorchRuntimeError|[Ff]ake ?[Tt]ensor"
        r"|recompile_limit|[Gg]raph break|^Unsupported: .*(Explanation|call_function|builtin|not supported)",
        "torch.compile cannot follow code that is not torch's own, such as the library of a circuit",
        "self.circuit = torch.compiler.disable(self.circuit), or compile the classical layers only; no fullgraph=True",
        "simulators#time",
        plain=(
            "torch.compile cannot follow a part of this model",
            "torch.compiler.disable on that part; model without torch.compile shows whether it runs at all",
        ),
    ),
    KnownError(
        r"TorchScript|torch\.jit|^Module '\w+' has no attribute|failed to convert Python type"
        r"|Unknown type name|symbolically traced|(to|the) ONNX|torch\.export",
        "TorchScript, FX and ONNX hold operations of torch alone, and cannot hold other Python code, such as a circuit",
        "export the classical layers alone; torch.save(model.state_dict(), file) to keep the model",
        "simulators#saving",
        plain=(
            "TorchScript, FX and ONNX hold operations of torch alone, and cannot hold other Python code",
            "torch.save(model.state_dict(), file) to keep the model; export the part that is torch alone",
        ),
    ),
    KnownError(
        r"working triton|TritonMissing|C\+\+ compiler|Compiler: \w+ is not found|CppCompileError",
        "torch.compile found no compiler or no Triton on this machine",
        'model without torch.compile, or torch.compile(model, backend="eager"); install gcc or triton',
        "simulators#time",
    ),
)

# ---- versions --------------------------------------------------------------------------------------------------------

VERSIONS = (
    KnownError(
        r"dlopen\(|undefined symbol|DLL load failed|symbol not found in flat|numpy\.core\.multiarray failed",
        "a compiled library was made for another version of Python, NumPy or of the system",
        "pip install --force-reinstall --no-cache-dir with its name, in a fresh environment",
    ),
    KnownError(
        "No module named '(pkg_resources|distutils)",
        "a library relies on a module that new versions of Python and setuptools no longer bring",
        'pip install "setuptools<81", or a newer version of that library',
    ),
    KnownError(
        "partially initialized module|circular import",
        "a file of yours has the name of a library and is imported in its place, or two files import each other",
        "rename files such as pennylane.py, torch.py or qiskit.py, and delete __pycache__",
    ),
    KnownError(
        r"compiled using NumPy 1|numpy\.dtype size changed|_ARRAY_API"
        r"|[Nn]umpy is not available|module 'numpy' has no attribute|np\.\w+_?` was removed",
        "a library was made for another version of NumPy than the one installed",
        'pip install -U pennylane torch, or pip install "numpy<2"',
    ),
    KnownError(
        r"random\.\w*\.?Generator' object has no attribute",
        "NumPy's new generators name their functions differently from np.random",
        "rng.standard_normal for randn, rng.random for rand, rng.integers for randint",
    ),
    KnownError(
        "autoray.* has no attribute|cannot import name .* from 'autoray",
        "PennyLane and autoray are of versions that do not fit",
        'pip install -U pennylane, or pip install "autoray<0.7" for PennyLane before 0.42',
    ),
    KnownError(
        r"(module 'pennylane[\w.]*' has no attribute"
        r"|cannot import name '\w+' from 'pennylane|No module named 'pennylane\.)",
        "this name is not in the installed PennyLane: it was removed or renamed, or is newer",
        "qml.__version__ and the changelog: QubitStateVector is StatePrep, enable_tape and KerasLayer are gone",
    ),
    KnownError(
        r"cannot import name '(Aer|execute|BasicAer|IBMQ|assemble|transpile_\w+)' from 'qiskit|qiskit\.providers\.aer"
        r"|No module named 'qiskit_aer'|module 'qiskit' has no attribute '(Aer|execute|BasicAer)'",
        "the simulators left Qiskit for a package of their own, and execute was removed with Qiskit 1.0",
        "pip install qiskit-aer; from qiskit_aer import AerSimulator; backend.run(transpile(circuit, backend))",
    ),
    KnownError(
        r"(No module named|cannot import name .* from) '(qiskit|qiskit_\w+)\b"
        r"|module 'qiskit[\w.]*' has no attribute|No module named 'qiskit_algorithms",
        "this part of Qiskit was removed, renamed or became a package of its own, as opflow and algorithms",
        "qiskit.quantum_info.SparsePauliOp for opflow, qiskit.primitives for QuantumInstance; pip install -U plugins",
    ),
    KnownError(
        "'QuantumCircuit' object has no attribute",
        "this method of a circuit was removed with Qiskit 1.0",
        "assign_parameters for bind_parameters, cx for cnot, u for u3, qiskit.qasm2.dumps(circuit) for qasm",
    ),
    KnownError(
        "unexpected keyword argument '(quantum_instance|operator|exp_val|expectation"
        "|feature_map|ansatz|backend|estimator|sampler|gradient|pass_manager|input_gradients)'",
        "this argument belongs to another version of Qiskit Machine Learning",
        "EstimatorQNN(circuit=qc, input_params=..., weight_params=..., estimator=StatevectorEstimator())",
    ),
    KnownError(
        r"No module named '(torch|torchvision|pennylane|torchquantum|qutip|jax|tensorflow|keras"
        r"|cirq|strawberryfields)\b|TorchLayer requires PyTorch|not found\. Please install the latest"
        r"|This feature requires \w+, a|JAX not found|(JAX|Jax|Module \w+) is required",
        "this library is not installed where Python runs",
        "python -m pip install with its name, in the environment of the notebook (sys.executable shows which)",
    ),
    KnownError(
        r"cannot import name '\w+' from '(torch|scipy|numpy|jax|autograd)"
        r"|module '(torch|scipy|jax|autograd)[\w.]*' has no",
        "this name is not in the installed version of the library: it was removed or renamed, or is newer",
        "print(torch.__version__), and pip install -U with its name; torch and torchvision both together",
    ),
)

# ---- Qiskit ----------------------------------------------------------------------------------------------------------

PRIMITIVES = "primitives of version 1 and 2 are called in different ways, and this mixes them"
RUN_PRIMITIVES = (
    "estimator.run([(circuit, observable, values)]).result()[0].data.evs, or sampler.run([circuit]), with "
    "StatevectorEstimator and StatevectorSampler; pip install -U qiskit-machine-learning"
)

QISKIT = (
    KnownError(
        "'_input_qubit_count'",
        "the circuit was not laid out on the qubits of a backend, which the network expects of its pass manager",
        "generate_preset_pass_manager(1, backend).run(circuit) before EstimatorQNN(circuit=...), without pass_manager=",
    ),
    KnownError(
        r"TypeError: run\(\) (takes|got|missing)",
        PRIMITIVES,
        RUN_PRIMITIVES,
        frames="a circuit",
    ),
    KnownError(
        "Invalid param type",
        "a gate of Qiskit takes numbers and parameters, and was given a tensor or another object",
        "float(x[i]) for a number; for gradients a Parameter in the circuit, and TorchConnector(EstimatorQNN(...))",
        "gradients#detached",
    ),
    KnownError(
        r"[Qq]asm\w*(Error|Exception|ParseError).*",
        "the circuit was written as OpenQASM, with tensors or gates in it that this text format does not have",
        "weights.detach().tolist() for the numbers, without gradients; qml.transforms.decompose for the gates",
    ),
    KnownError(
        "unbound parameter|[Nn]ot all parameters are bound|parameters? .*not (been )?bound"
        "|circuit contains unbound|cannot define a ParameterizedInitialize",
        "angles have no values: parameters in neither input_params nor weight_params, or a RawFeatureVector's gradient",
        "input_params=feature_map.parameters, weight_params=ansatz.parameters; input_gradients=False",
        "gradients#none",
    ),
    KnownError(
        "Invalid input dimension|Input data has incorrect shape|x_vec .*incompatible dimensions",
        "samples have another number of features than the circuit has input parameters",
        "nn.Linear(n_features, qnn.num_inputs) before TorchConnector(qnn); ZZFeatureMap(n_features)",
    ),
    KnownError(
        r"number of values \(|number of parameter values|match the number of parameters"
        r"|parameters in the circuit|[Mm]ismatching number of values"
        r"|Expected \d+ parameters but|inconsistent with last dimension"
        r"|parameter values shape|Input param|Weight param|(input|weight)_params length"
        r"|not present in the ([\w-]+ )?circuit|does not match the sum of number of inputs",
        "inputs and weights together are not as many as the circuit has parameters, or other ones",
        "circuit.num_parameters == qnn.num_inputs + qnn.num_weights; circuit.assign_parameters(values)",
    ),
    KnownError(
        "number of qubits of the|qubits? .*does not match .*(observable|array)|number of qubits must be the same"
        "|qubit numbers|circuit with fewer qubits|num_qubits .*do not match|number of qubits: expected",
        "circuit, feature map, ansatz and observable have different numbers of qubits",
        'SparsePauliOp("Z" * circuit.num_qubits); observable.apply_layout(circuit.layout) after transpile',
    ),
    KnownError(
        r"pub-like|length of pub|'(_Singleton\w*|CircuitInstruction)' object has no attribute|wrap it with `\[\]`"
        r"|(Estimator|Sampler)\w*\.?_?(run)?\(\).*(positional|unexpected|missing)|Base(Estimator|Sampler)V?[12]?\b"
        r"|PrimitiveV?[12]|'(PrimitiveJob|PrimitiveResult|DataBin|PubResult)' object has no",
        PRIMITIVES,
        RUN_PRIMITIVES,
    ),
    KnownError(
        "not have (Measure|any classical bit)"
        "|[Ww]ithout measurements, the circuit cannot be sampled|[Nn]o counts for|No classical",
        "a sampler counts what is measured, and the circuit measures nothing",
        "circuit.measure_all()",
    ),
    KnownError(
        "unknown instruction|Cannot unroll|No rule to expand|Unable to translate the operations"
        "|not supported by the target system|target hardware definition|not in the basis|ISA circuit",
        "the backend runs its own gates only, and the circuit holds templates or other gates",
        "transpile(circuit, backend), or generate_preset_pass_manager(1, backend).run(circuit)",
    ),
    KnownError(
        "precision (must be (a real|non-neg)|less than)|[Ss]hots must be (an? |positive)|number of shots (has|needs)",
        "precision and shots of a primitive must be positive numbers, and a sampler needs shots as a whole number",
        "estimator.run(pubs, precision=0.01), sampler.run(pubs, shots=1024)",
        "simulators#shots",
        frames="a circuit",
    ),
    KnownError(
        "[Nn]o output shape given|Invalid output shape|custom interpret",
        "a sampler with an interpret function of its own must be told how many values that gives",
        "SamplerQNN(..., interpret=parity, output_shape=2)",
        frames="a circuit or no traceback",
    ),
    KnownError(
        "TorchConnector configured as sparse",
        "the connector is sparse and the network is not",
        "TorchConnector(qnn, sparse=False), or SamplerQNN(..., sparse=True)",
    ),
    KnownError(
        "Unable to find account|AccountNotFound|IBMNotAuthorized|IBM.*[Ii]nvalid token",
        "there is no IBM Quantum account on this machine, or its token is wrong",
        "QiskitRuntimeService.save_account(token=...), or a simulator: StatevectorEstimator()",
    ),
    KnownError(
        "(Estimator|Sampler|primitive) job failed",
        "parameters have no values (a RawFeatureVector with input gradients), or inputs and weights are not as many",
        "input_gradients=False or a feature map of angles; circuit.num_parameters == qnn.num_inputs + qnn.num_weights",
        "gradients#none",
    ),
)

KNOWN_ERRORS: tuple[KnownError, ...] = (
    *COMPILING,
    *SAVING,
    *QISKIT,
    *INPUTS,
    *LAYERS,
    *MEASUREMENTS,
    *DERIVATIVES,
    *SIMULATORS,
    *VERSIONS,
    *HARDWARE,
    *LOSSES,
    *LISTS,
    *GRAPH,
    *DTYPES,
    *SHAPES,
)
