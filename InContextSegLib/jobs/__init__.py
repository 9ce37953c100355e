"""Segmentations from files to files: one volume or many."""
