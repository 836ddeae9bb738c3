"""What is made of the log of what was served: propensities for the next run, and a comparison with what was trained on.

Not a step of the pipeline: `longplay feedback` and `longplay skew` run it.
"""
