"""Puts a blessed model where servers look for it."""
