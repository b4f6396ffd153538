"""What can be fitted, by the names that users know. Nothing heavy is imported: help and errors are immediate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Per(Enum):
    """What has one value: every particle, every micrograph (in each half set by itself), or every optics group."""

    PARTICLE = "particle"
    MICROGRAPH = "micrograph"
    GROUP = "optics group"


@dataclass(frozen=True)
class Parameter:
    """One kind of value. per: what has one value; meaning: in words, for help and pages."""

    name: str
    per: Per
    meaning: str


PARAMETERS = {
    each.name: each
    for each in (
        Parameter("defocus", Per.PARTICLE, "defocus of every particle"),
        Parameter("astigmatism-particle", Per.PARTICLE, "astigmatism of every particle, with its defocus"),
        Parameter("defocus-micrograph", Per.MICROGRAPH, "defocus of every micrograph"),
        Parameter("astigmatism", Per.MICROGRAPH, "astigmatism of every micrograph"),
        Parameter("phase-shift", Per.MICROGRAPH, "phase shift of a phase plate, of every micrograph"),
        Parameter("bfactor", Per.MICROGRAPH, "B factor of every micrograph"),
        Parameter("tilt", Per.GROUP, "beam tilt"),
        Parameter("trefoil", Per.GROUP, "threefold astigmatism"),
        Parameter("tetrafoil", Per.GROUP, "fourfold astigmatism"),
        Parameter("cs", Per.GROUP, "spherical aberration, with the mean defocus that goes with it"),
        Parameter("amplitude-contrast", Per.GROUP, "amplitude contrast"),
        Parameter("magnification", Per.GROUP, "anisotropic magnification"),
    )
}
