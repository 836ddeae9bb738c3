"""Keras layers that backbones and heads are built from."""
