"""Networks that segment from examples, their weights, and the catalogue of both."""
