"""Composes components into runs; importing it imports no framework."""
