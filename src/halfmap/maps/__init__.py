"""Density maps: reading and writing, masks, and radial filters."""
