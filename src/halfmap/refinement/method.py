"""How half maps become references in a refinement: regulariser and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from halfmap.particles.table import ParticleTable
from halfmap.refinement.preflight import read_reference
from halfmap.regularisation.protocol import Regulariser


@dataclass(frozen=True)
class Method:
    """The chosen regulariser, the user's solvent mask [z, y, x], and notes on how masks were changed to fit. part: the
    regulariser's mask of a part [z, y, x]."""

    regulariser: Regulariser
    mask: Tensor | None
    notes: list[str]
    part: Tensor | None


def method_of(
    name: str, make: Callable[..., Regulariser], options: dict[str, Any], mask: Path | None, table: ParticleTable,
    diameter: float,
) -> Method:  # fmt: skip
    """Read the mask and make the regulariser of its options. Where one of them is a mask, that takes the path's place.

    name: of the regulariser. table, diameter: of the particles that masks must fit, in A. Raises InputError for a mask
    that does not.
    """
    notes = []

    def read(path: Path, what: str) -> Tensor:
        found = read_reference(path, table, diameter, what)
        notes.append(found.note)
        return found.map.clamp(0, 1)

    given = None if mask is None else read(mask, "mask")
    masks = {key: read(path, f"{name} {key}") for key, path in options.items() if isinstance(path, Path)}
    return Method(make(**options | masks), given, notes, masks.get("mask"))
