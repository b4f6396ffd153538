"""Regularisers: how sufficient statistics become the next references. One file, one published method."""
