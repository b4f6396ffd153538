"""Particle images of a known molecule at known poses."""
