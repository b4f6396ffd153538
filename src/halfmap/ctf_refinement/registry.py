"""The fits by the names of `parameters.PARAMETERS`, in the order in which they are solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from halfmap.ctf_refinement.defocus import ParticleChanges, ParticleDefocus
from halfmap.ctf_refinement.even import Even
from halfmap.ctf_refinement.fit import Fit, Fitted
from halfmap.ctf_refinement.magnification import Magnification
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.ctf_refinement.odd import Odd
from halfmap.ctf_refinement.products import Range
from halfmap.imaging.forward import Geometries
from halfmap.particles.table import ParticleTable


@dataclass(frozen=True)
class Choices:
    """How values are fitted and applied.

    prior_defocus: standard deviation in A of how far the defocus of particles is from the given one; None: as the
    images say. insignificant: whether values are applied too that are not significant. moved: optics groups whose
    magnification an earlier pass has changed.
    """

    prior_defocus: float | None = None
    insignificant: bool = False
    moved: tuple[int, ...] = ()


def fits_for(
    names: Sequence[str], table: ParticleTable, geometries: Geometries, used: Range, choices: Choices
) -> list[Fit]:
    """The fits of these parameters for the images of a table, to be solved in this order.

    geometries: against the maps that images are compared with, up to the last shell of ``used``.
    """
    def of(*kinds: str) -> list[str]:
        return [name for name in kinds if name in names]

    finest = used.last / (geometries.box * geometries.pixel_size)
    fits: list[Fit] = []
    if odd := of("tilt", "trefoil"):
        fits.append(Odd(odd, table, geometries, used, choices.insignificant))
    if common := of("defocus-micrograph", "astigmatism", "phase-shift", "bfactor"):
        fits.append(MicrographFit(table, finest, common, insignificant=choices.insignificant))
    if own := of("defocus", "astigmatism-particle"):
        asked = ParticleChanges("astigmatism-particle" in own, spread=choices.prior_defocus, beside=tuple(names),
                                insignificant=choices.insignificant)
        fits.append(ParticleDefocus(table, finest, asked))
    if even := of("tetrafoil", "amplitude-contrast", "cs"):  # after defocus, whose mean change it takes for its own
        fits.append(Even(even, table, geometries, used, choices.insignificant))
    if "magnification" in names:  # last, since the sums of all others are those of the old matrix
        fits.append(Magnification(table, geometries, used, choices.insignificant, choices.moved))
    return fits


def continued(first: Sequence[Fitted], then: Sequence[Fitted]) -> tuple[Fitted, ...]:
    """What was fitted in one pass, and where ``then`` has the same kind of values, in the next one about its result."""
    later = {one.name: one for one in then}
    return tuple(_added(one, later[one.name]) if one.name in later else one for one in first)


def _added(first: Fitted, then: Fitted) -> Fitted:
    """Both changes of the same values as one. A pass that found nothing to change leaves those of the first."""
    moved = then.applied[:, None]
    change = torch.where(moved, then.before - first.before + then.change, first.change)
    return Fitted(
        first.name, first.per, first.components, first.units, first.number, first.half, first.before, change,
        torch.where(moved, then.error, first.error), first.gain + torch.where(then.applied, then.gain, 0.0),
        first.applied | then.applied, first.verdict, first.prior,
    )  # fmt: skip
