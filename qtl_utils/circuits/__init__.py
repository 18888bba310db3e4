"""Quantum circuits: encodings and ansätze, the torch layer, and who simulates and differentiates them."""
