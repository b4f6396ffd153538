"""Particle images: tables, stacks, and their preparation."""
