"""Tunes a trained policy online, in a simulator."""
