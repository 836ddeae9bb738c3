"""Pipeline steps: one folder each, a light declaration and the work behind it."""
