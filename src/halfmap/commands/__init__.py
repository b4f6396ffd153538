"""Every command from its settings to its result: what the command line and the Python API both start."""
