"""InContextSeg: segment medical volumes from a few labelled slices, without training."""

__version__ = "0.2.0"
