"""InContextSeg: segment medical volumes from a few labelled slices, without training."""

__version__ = "0.1.0"
