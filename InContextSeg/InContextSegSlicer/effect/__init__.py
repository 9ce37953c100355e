"""The effect of the Segment Editor: clicks, boxes and scribbles on slices, and carrying a segment on."""
