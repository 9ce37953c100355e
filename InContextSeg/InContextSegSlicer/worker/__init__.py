"""The worker as Slicer runs it, and long work in short pieces."""
