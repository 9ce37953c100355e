"""Training of the in-context network in episodes: invented tasks, open data and superpixels."""
