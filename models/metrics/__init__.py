"""Metrics with a fixed rule for ties, and intervals."""
