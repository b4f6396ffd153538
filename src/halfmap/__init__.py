"""Halfmap: refinement of one 3D map from single-particle cryo-EM images."""

import os

__version__ = "0.1.0"

# OpenMP reads this once, when torch is first imported; workers that spin slow down a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
