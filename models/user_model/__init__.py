"""A model of users learned from logs: what an item earns, what comes next, and when they leave."""
