"""Error messages that users meet, their causes and what mends them."""

import re
from dataclasses import dataclass

from qtl_utils.doctor.findings import Finding


def short(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split()) or repr(error)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= length else text[: length - 3] + "..."


@dataclass(frozen=True)
class KnownError:
    """A message (regular expression), its cause, what mends it, and where that is explained."""

    pattern: str
    cause: str
    fix: str
    section: str


KNOWN_ERRORS = (
    KnownError(
        r"the model returns a \w+, not a tensor",
        "the loss needs one tensor of outputs",
        "return the outputs alone, or diagnose a module that picks them out",
        "gradients#batch",
    ),
    KnownError(
        r"expected target dtype|expected scalar type Long|\"nll_loss\w*\" not implemented|to be Long",
        "cross-entropy takes class numbers, which are whole",
        "labels.long()",
        "simulators#dtype",
    ),
    KnownError(
        r"Target -?\d+ is out of bounds",
        "a label is larger than the number of outputs allows; labels count from 0",
        "as many outputs as classes, labels 0 ... classes - 1",
        "simulators#errors",
    ),
    KnownError(
        r"Target size .* must be the same as input size",
        "outputs and labels have different shapes",
        "labels.view_as(outputs)",
        "gradients#batch",
    ),
    KnownError(
        r"\b(Byte|unsigned char)\b",
        "images are whole numbers, layers compute with floating point",
        "images.float() / 255",
        "simulators#dtype",
    ),
    KnownError(
        r"'(list|tuple)' object has no attribute",
        "since PennyLane 0.30 a QNode with several measurements returns a list of tensors; an LSTM returns a tuple",
        "torch.stack(list_of_outputs, dim=-1)",
        "simulators#lists",
    ),
    KnownError(
        r"gradient of broadcasted tapes with respect to the broadcasted parameters",
        "parameter-shift, finite-diff, spsa and hadamard cannot differentiate a batch behind a trainable layer",
        "qml.transforms.broadcast_expand(qnode), or diff_method='backprop' or 'adjoint'",
        "simulators#broadcast",
    ),
    KnownError(
        r"must have the same dtype|expected (m1 and m2|scalar type|.*dtype)|but found (Double|Float)",
        "float64 met float32: QNodes and NumPy give float64, layers are float32",
        "circuit_output.to(x.dtype) before the next layer, images.float()",
        "simulators#dtype",
    ),
    KnownError(
        r"does not support adjoint with requested circuit",
        "adjoint differentiation gives gradients of expectation values without shots, not of probabilities, states "
        "or samples",
        "return expectation values, or diff_method='backprop' (without shots) or 'parameter-shift' (with shots)",
        "simulators#adjoint",
    ),
    KnownError(
        r"does not support backprop with requested circuit",
        "backprop needs a simulator written in torch and no shots",
        "default.qubit without shots, or diff_method='adjoint' or 'parameter-shift'",
        "simulators#adjoint",
    ),
    KnownError(
        r"Expected all tensors to be on the same device|on device meta|same device|is on cpu|Tensor on device",
        "model, batch and what the circuit returns are on different devices",
        "move all of them: model.to(device), images.to(device), circuit_output.to(x.device)",
        "simulators#devices",
    ),
    KnownError(
        r"Can't pickle|cannot pickle|Can't get local object|pickle .*QNode",
        "a circuit is a function made at run time, which pickle cannot store",
        "torch.save(model.state_dict(), file), and load it into a newly made model",
        "simulators#saving",
    ),
    KnownError(
        r"shapes? cannot be multiplied|size mismatch|is invalid for input of size|must match the size",
        "a layer was handed another shape than it expects; circuits give one value per measurement",
        "print the shape after every layer; a QNode in a TorchLayer should return a list, not a tuple",
        "gradients#batch",
    ),
    KnownError(
        r"does not require grad and does not have a grad_fn",
        "nothing between the parameters and the loss is differentiable",
        "build outputs with torch.stack instead of torch.tensor, .item() or NumPy; set requires_grad",
        "gradients#detached",
    ),
    KnownError(
        r"Can't call numpy\(\) on Tensor that requires grad",
        "NumPy leaves the graph, so torch refuses",
        "use torch's functions on tensors that need gradients",
        "gradients#detached",
    ),
    KnownError(
        r"Expected more than 1 value per channel",
        "BatchNorm in train mode cannot normalise a batch of one",
        "drop or merge a last batch of one image",
        "evaluation#batchnorm",
    ),
)


def explain(error: Exception) -> Finding:
    """The finding for an exception: its text, and cause and fix where the message is a known one."""
    message = f"{type(error).__name__}: {short(error)}"
    for known in KNOWN_ERRORS:
        if re.search(known.pattern, f"{type(error).__name__}: {error}"):
            return Finding("fail", message, known.cause, known.fix, "forward", known.section)
    cause = "the model raises on this batch; the message is not one the doctor knows"
    return Finding("fail", message, cause, "run model(images) by itself and read the traceback", "forward")
