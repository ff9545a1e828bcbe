"""A training run: its assembly, the loop, checkpoints and what is reported."""
