"""Optics that a refinement fits while it runs: their values, and where they take effect."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from halfmap.ctf_refinement.fit import Fitted
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.source import ParticleSource


@dataclass(frozen=True)
class RefinedOptics:
    """Optics as fitted so far.

    defocus [b]: of all particles; groups [g]: the optics groups; found: what the last fit said, for records: one entry
    for each kind of value.
    """

    defocus: Defocus
    groups: tuple[OpticsGroup, ...]
    found: list[dict[str, Any]] = field(default_factory=list)

    def of(self, source: ParticleSource) -> ParticleSource:
        """The particles with these optics."""
        return replace(source, table=replace(source.table, defocus=self.defocus, optics=self.groups))


def summary(fitted: Fitted) -> dict[str, Any]:
    """Values of one kind for the record of an iteration: how many of what were changed, by how much (root mean square
    of each component), and why."""
    return {
        "name": fitted.name, "per": fitted.per.value, "components": list(fitted.components),
        "units": list(fitted.units), "number": len(fitted.applied), "applied": int(fitted.applied.sum()),
        "change_rms": fitted.change_rms, "gain": float(fitted.gain.sum()), "verdict": fitted.verdict,
    }  # fmt: skip
