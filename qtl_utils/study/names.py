"""Names in registries: what there is, and what may have been meant."""

import difflib
from collections.abc import Collection

NO_BACKBONE = "none"  # the model of 2-D points, which are their own features
REAL_DEVICE = "ibm:"  # what the name of a device begins with that is a real one, as in ibm:ibm_fez


def unknown_name(kind: str, name: str, known: Collection[str]) -> str:
    """A sentence that says `name` is no `kind`, and what may have been meant or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = f"; known: {', '.join(sorted(known))}" if not close or len(known) <= 15 else ""
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'{listed}{hint}"


def find(kind: str, name: str, registry: dict):
    """`registry[name]`; ValueError with the known names where there is none."""
    if name not in registry:
        raise ValueError(unknown_name(kind, name, registry))
    return registry[name]
