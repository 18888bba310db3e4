"""Fixes that code can apply, by the check whose finding they mend; importing this package registers them."""

# isort: off
from qtl_utils.doctor.fixes import graph, circuit, training  # noqa: F401
