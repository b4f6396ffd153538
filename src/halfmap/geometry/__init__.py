"""Rotations, point groups and the grids of orientations and shifts that a search visits."""
