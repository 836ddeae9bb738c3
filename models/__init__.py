"""Learning, evaluation and simulation on tensors and arrays; no files, no Beam, no command line."""
