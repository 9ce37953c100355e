"""The panel of the module: examples, segmentation, review, many volumes."""
