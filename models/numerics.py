"""Numbers that stand for what cannot be."""

IMPOSSIBLE = -1e30
"""A logit or score of something that is not allowed: its exponential is 0 in every float type, and sums of a few stay finite."""

TINY = 1e-30
"""Least probability whose logarithm is taken."""
