"""Volumes, their geometry, and the files that hold them."""
