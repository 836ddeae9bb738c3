"""Pure functions from predictions to a loss for every step."""
