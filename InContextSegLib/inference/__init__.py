"""From a volume and a support set to a mask with its uncertainty."""
