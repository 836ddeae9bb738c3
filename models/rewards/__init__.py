"""What an item in a state is worth on average: estimators of E[r | s, a], and how far they can be believed."""
