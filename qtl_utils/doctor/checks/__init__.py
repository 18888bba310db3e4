"""The checks of the doctor; importing this package registers them, in the order in which they are made."""

# isort: off
from qtl_utils.doctor.checks import graph, circuit, training, mixing  # noqa: F401
