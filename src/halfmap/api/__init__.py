"""Halfmap from Python: a function for every command, and what they leave as arrays and tables."""
