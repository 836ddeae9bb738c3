"""Returns of the train split, raised to what a conservative value function says could still have come."""
