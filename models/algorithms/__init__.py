"""One file an algorithm: configuration, heads, losses."""
