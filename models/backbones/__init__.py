"""Networks that turn a history into a state at every step."""
