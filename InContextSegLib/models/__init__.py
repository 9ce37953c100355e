"""Networks that segment from examples: each is `encode` + `condition` + `segment`."""
