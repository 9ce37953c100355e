"""Labelled examples: which slices teach, what they teach, and which of them are like a target."""
