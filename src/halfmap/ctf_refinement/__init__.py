"""Optics from particle images: what a CTF and its aberrations must be, given poses and references."""
