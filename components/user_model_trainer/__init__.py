"""Trains a model of users."""
