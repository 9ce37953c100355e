"""What the modules of the extension have in common: the bridge to the scene, the worker's process, the panel."""
