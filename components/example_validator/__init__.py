"""Anomalies, skew and drift of the trajectories."""
