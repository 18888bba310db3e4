"""Helpers of the QTL study: hybrid quantum-classical transfer learning, one idea per module."""

__version__ = "0.1.0"
