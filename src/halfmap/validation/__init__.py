"""Validation of maps and half sets: FSC, its null distribution, B factors, local resolution, orientations and poses."""
