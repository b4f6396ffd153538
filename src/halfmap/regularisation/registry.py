"""The regularisers by name: a new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfmap.regularisation.protocol import Regulariser
from halfmap.regularisation.wiener import Uniform

REGULARISERS: dict[str, Callable[..., Regulariser]] = {"uniform": Uniform}


def regulariser_named(name: str, **options: Any) -> Regulariser:
    """A regulariser with these options and defaults for the others; KeyError for an unknown name."""
    return REGULARISERS[name](**options)
