"""Wavelet-sparse regularisation for Halfmap, and an example of a package that adds a regulariser to it."""
