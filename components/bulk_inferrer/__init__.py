"""Recommends for many histories at once."""
