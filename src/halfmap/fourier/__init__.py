"""Fourier space: the band of image coefficients, shells, transforms and the gridding correction."""
