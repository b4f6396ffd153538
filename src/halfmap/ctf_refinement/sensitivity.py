"""What resolution shows an optical error: where errors of the usual size change the phase of an image noticeably."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.imaging.optics import OpticsGroup

USUAL_CS, LEAST_CS = 2.7, 0.1  # mm: of a lens without a corrector; below it a tilt of the beam makes no coma
# Radians at the finest shell: what changes phases by less is hardly told from nothing, by few images or by many.
NOTICEABLE = {Per.PARTICLE: 0.1, Per.MICROGRAPH: 0.1, Per.GROUP: 0.02}


@dataclass(frozen=True)
class UsualError:
    """An error as data sets have them, and what it does to the phase of an image.

    size, unit: of the error; phase: it causes at 1 A, radians; power: of the spatial frequency that it grows with;
    least: phase that can be told from nothing. A B factor changes no phase; what counts is the share of the amplitude
    that it takes.
    """

    size: float
    unit: str
    phase: float
    power: int
    least: float = NOTICEABLE[Per.PARTICLE]

    def at(self, resolution: float) -> float:
        """The phase in radians at a resolution in A."""
        return self.phase / resolution**self.power

    @property
    def needed(self) -> float:
        """The resolution in A that shows it, infinite where any does."""
        return (self.phase / self.least) ** (1 / self.power) if self.power else math.inf


def no_coma(optics: OpticsGroup) -> bool:
    """Whether a tilted beam turns no phases worth speaking of, as in a microscope whose Cs is corrected."""
    return optics.spherical_aberration < LEAST_CS


def usual_error(name: str, optics: OpticsGroup, diameter: float) -> UsualError:
    """A usual error of the parameter ``name`` of a microscope like ``optics``, for a particle of a diameter in A.

    Phases are those of `imaging.ctf`. Magnification moves what lies at the particle's rim. Trefoil, and coma where a
    tilt makes none, are counted as much as a tilt makes with the usual lens.
    """
    wavelength, usual_lens = optics.wavelength, f" of beam tilt at {USUAL_CS:g} mm"
    own = 1.0 if no_coma(optics) else optics.spherical_aberration / USUAL_CS
    coma = 2 * math.pi * USUAL_CS * 1e7 * wavelength**2 * 0.2e-3
    known = {
        "tilt": UsualError(0.2, "mrad" + usual_lens * no_coma(optics), coma * own, 3),
        "trefoil": UsualError(0.2, "mrad" + usual_lens, coma, 3),
        "tetrafoil": UsualError(0.1, "mm of spherical aberration", 0.5 * math.pi * 1e6 * wavelength**3, 4),
        "cs": UsualError(0.1, "mm", 0.5 * math.pi * 1e6 * wavelength**3, 4),
        "phase-shift": UsualError(10.0, "deg", math.radians(10.0), 0),
        "amplitude-contrast": UsualError(0.1, "", 0.1, 0),
        "magnification": UsualError(0.5, "%", 2 * math.pi * 0.005 * 0.5 * diameter, 1),
        "bfactor": UsualError(20.0, "A^2", 20.0 / 4, 2),
    }
    usual = known.get(name, UsualError(200.0, "A", math.pi * wavelength * 200.0, 2))
    return replace(usual, least=NOTICEABLE[PARAMETERS[name].per])
