"""Trains a policy from trajectories."""
