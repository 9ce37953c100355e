"""Training on labelled images of one's own."""
