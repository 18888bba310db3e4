"""What every executor refuses: angles that are no numbers, and states beyond the memory."""

import psutil

NOT_FINITE = (
    "inputs or weights hold angles that are NaN, infinite or beyond 1e15 radians; "
    "look for the step that made them, often a too large learning rate"
)


def check_memory(size: int) -> None:
    """Raises ValueError where `size` bytes, if many, are more than this machine has free."""
    if size > 2**28 and size > (free := psutil.virtual_memory().available):
        raise ValueError(
            f"simulating this circuit needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "use fewer qubits, samples at once or threads"
        )
