"""Judging maps and half sets: Fourier shell correlation, its null distribution, and what the numbers do not
say."""
