"""The schema of the trajectories: what is inferred from the data, bounded by what is known."""
