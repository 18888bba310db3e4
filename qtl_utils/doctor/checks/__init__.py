"""The checks of the doctor; importing this package registers them, in the order in which they are made."""

from qtl_utils.doctor.checks import circuit, encoding, graph, labels, mixing, numbers, training  # noqa: F401
from qtl_utils.doctor.findings import CHECKS

# what explains others comes first; a check of one's own comes after these
ORDER = (
    "devices",
    "forward",
    "finite",
    "loss",
    "dtypes",
    "differentiable",
    "saturation",
    "labels",
    "probabilities",
    "encoding_range",
    "amplitude",
    "inputs_matter",
    "plateau",
    "gradient_reaches",
    "dead_angles",
    "batch",
    "gradient_correct",
    "per_sample_loop",
    "method",
    "time",
    "memory",
    "shot_noise",
    "reproducible",
    "saving",
    "frozen_buffers",
    "updates",
    "travel",
    "stuck_loss",
    "zeroed_angles",
    "scheduler_order",
    "leakage",
    "selection",
    "readout_mixing",
)

_own = {name: CHECKS.pop(name) for name in ORDER}
_others = dict(CHECKS)
CHECKS.clear()
CHECKS.update(_own | _others)
