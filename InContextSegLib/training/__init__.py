"""Training on synthetic tasks."""
