"""The regularisers by name: a new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from halfmap.regularisation.protocol import Regulariser
from halfmap.regularisation.wiener import Uniform

REGULARISERS: dict[str, Callable[[], Regulariser]] = {"uniform": Uniform}


def regulariser_named(name: str) -> Regulariser:
    """A regulariser with its default options; KeyError for an unknown name (settings know the choices)."""
    return REGULARISERS[name]()
