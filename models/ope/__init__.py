"""Off-policy evaluation on NumPy arrays: what a policy would have earned, from the log of another, and when not to say so."""
