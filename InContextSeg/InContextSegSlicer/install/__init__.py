"""The installation of what Slicer lacks."""
