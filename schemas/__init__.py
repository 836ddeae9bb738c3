"""Data contracts and typed configuration; imports nothing else of longplay."""
