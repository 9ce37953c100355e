"""How good a segmentation is, and how sure we are of that."""
