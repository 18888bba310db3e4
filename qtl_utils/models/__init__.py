"""Backbones and their features, heads, and the variants that a study compares."""
