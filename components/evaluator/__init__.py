"""Ranks the test split and says whether the model may be pushed."""
