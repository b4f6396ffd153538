"""Halfmap: refinement of one 3D map from single-particle cryo-EM images."""

import os

__version__ = "0.2.0"

# OpenMP reads this once, when torch is first imported; workers that spin slow down a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# MKL divides a product of matrices by the number of threads in ways that change its last bits, unless it is told that
# results must repeat. This costs no speed that could be measured, and products on other libraries do not know it.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
