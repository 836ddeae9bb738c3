"""Trains an estimator of rewards."""
