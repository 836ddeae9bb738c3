"""Logs to trajectories: read, partition by user, cut into sessions, split, count the vocabulary, encode."""
