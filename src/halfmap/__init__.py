"""Halfmap: refinement of one 3D map from single-particle cryo-EM images."""

import os
from importlib import import_module

__version__ = "0.2.0"

# OpenMP reads this once, when torch is first imported; workers that spin slow down a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# MKL divides a product of matrices by the number of threads in ways that change its last bits, unless it is told that
# results must repeat. This costs no speed that could be measured, and products on other libraries do not know it.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def __getattr__(name: str) -> object:
    """What halfmap.api offers (halfmap.refine, halfmap.Run), made when it is first asked for: no part of the program
    needs it, and importing this package costs nothing."""
    names = None if name.startswith("_") else import_module("halfmap.api.names")
    if names is None or name not in names.PUBLIC:
        raise AttributeError(f"module 'halfmap' has no attribute {name!r}")
    found: object = names.public(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("halfmap.api.names").PUBLIC})
