"""Regularisers make the next references from the sums of the M-step. One file, one published method."""
