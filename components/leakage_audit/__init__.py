"""Looks for what evaluation data may have told the training data."""
