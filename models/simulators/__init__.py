"""Environments whose values are known."""
