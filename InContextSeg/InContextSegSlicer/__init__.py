"""What InContextSeg does inside 3D Slicer; the only package of the project that imports Slicer."""
