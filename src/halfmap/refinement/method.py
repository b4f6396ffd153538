"""How the settings of a refinement say that half maps become references: regulariser and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from halfmap.particles.table import ParticleTable
from halfmap.refinement.preflight import read_reference
from halfmap.regularisation.protocol import Regulariser
from halfmap.regularisation.registry import regulariser_named
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularisers import regulariser_options


@dataclass(frozen=True)
class Method:
    """The chosen regulariser, the user's solvent mask [z, y, x], and notes on how masks were changed to fit. part: the
    regulariser's mask of a part [z, y, x]."""

    regulariser: Regulariser
    mask: Tensor | None
    notes: list[str]
    part: Tensor | None


def method_of(settings: RefineSettings, table: ParticleTable) -> Method:
    """Read the masks that the settings name. Where one is an option of the regulariser, it takes the path's place."""
    notes = []

    def read(path: Path, what: str) -> Tensor:
        mask = read_reference(path, table, settings.diameter, what)
        notes.append(mask.note)
        return mask.map.clamp(0, 1)

    given = None if settings.mask is None else read(settings.mask, "mask")
    options = regulariser_options(settings)
    if options.get("mask") is not None:
        options["mask"] = read(options["mask"], f"{settings.regulariser} mask")
    return Method(regulariser_named(settings.regulariser, **options), given, notes, options.get("mask"))
