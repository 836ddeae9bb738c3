"""Statistics of every split, with TensorFlow Data Validation."""
