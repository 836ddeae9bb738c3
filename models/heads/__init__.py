"""Keras layers that turn states into logits and values."""
