"""Exports a model as a SavedModel that TF Serving loads."""
