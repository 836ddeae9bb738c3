"""Learning from what a policy itself brings about: roll-outs, replay, and the test that stops it."""
