"""Aberrations as cryoSPARC writes them (lengths in A) and as RELION does (beam tilt and Zernike coefficients).

With wavelength l, a frequency f = (x, y) in 1/A at azimuth phi, and r = |f|, the wave aberration of the lengths is

    chi(f) = 2 pi shift.f + 2 pi l^2 (tilt.f) r^2 + (2 pi / 3) l^2 r^3 (trefoil_0 cos 3phi + trefoil_1 sin 3phi)
           + 2 pi l^3 r^4 (tetra_0 cos 2phi + tetra_1 sin 2phi) + (pi / 2) l^3 r^4 (tetra_2 cos 4phi + tetra_3 sin 4phi)

beside defocus and Cs. These are the lengths A0, B2, A2, S3 and A3 of Uhlemann & Haider 1998 (Ultramicroscopy 72, 109),
with tilt = Cs times the angle of the beam. The odd part multiplies the model by exp(-i chi); the even part adds to the
CTF's gamma, as Cs does. cryoSPARC does not publish its signs. That of the tilt is the one csparc2star.py uses, the
others are those of one lens, and none has been compared with real data yet. The magnification matrix is stored less the
identity, and maps frequencies of the image as RELION's does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import BeamTilt, OpticsGroup, electron_wavelength

# Columns: odd Zernike polynomials in RELION's order. Rows: the terms y, x, r^3 sin 3, r^2 y, r^2 x, r^3 cos 3.
ODD = np.eye(6)
ODD[[3, 4], [3, 4]], ODD[[0, 1], [3, 4]] = 3.0, -2.0
# The same for even ones, with the terms 1, r^2 sin 2, r^2, r^2 cos 2, r^4 sin 4, r^4 sin 2, r^4, r^4 cos 2, r^4 cos 4.
EVEN = np.eye(9)
EVEN[[0, 2], [2, 2]] = -1.0, 2.0
EVEN[[1, 5], [5, 5]] = EVEN[[3, 7], [7, 7]] = -3.0, 4.0
EVEN[[0, 2, 6], [6, 6, 6]] = 1.0, -6.0, 6.0
# mm. With less spherical aberration than this, coma has other sources than a tilted beam.
LEAST_ABERRATION = 0.1

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Lengths:
    """Aberrations of an exposure group in A: ctf/shift_A[2], tilt_A[2], trefoil_A[2] and tetra_A[4]."""

    shift: Numbers
    tilt: Numbers
    trefoil: Numbers
    tetra: Numbers


@dataclass(frozen=True)
class RelionTerms:
    """Aberrations of an optics group in RELION's terms.

    odd_zernike[0 or 6] and even_zernike[0 or 9]: phase coefficients in radians.
    """

    beam_tilt: BeamTilt
    odd_zernike: tuple[float, ...]
    even_zernike: tuple[float, ...]


def relion_terms(lengths: Lengths, voltage: float, aberration: float) -> RelionTerms:
    """The lengths in RELION's terms, for a voltage in kV and a spherical aberration Cs in mm.

    The tilt becomes RELION's beam tilt, or coma where Cs is too small for it to mean a tilt.
    """
    wavelength = electron_wavelength(voltage)
    tilt, coma = lengths.tilt, np.zeros(2)
    if aberration < LEAST_ABERRATION:
        tilt, coma = coma, tilt
    beam = tilt * (1e3 / (aberration * 1e7)) if tilt.any() else tilt
    third, fourth = 2.0 * math.pi * wavelength**2, 2.0 * math.pi * wavelength**3
    odd = -np.array([2.0 * math.pi * lengths.shift[1], 2.0 * math.pi * lengths.shift[0], third / 3 * lengths.trefoil[1],
                     third * coma[1], third * coma[0], third / 3 * lengths.trefoil[0]])
    even = np.zeros(9)
    even[[7, 5]] = fourth * lengths.tetra[:2]
    even[[8, 4]] = fourth / 4 * lengths.tetra[2:]
    return RelionTerms(BeamTilt(*beam.tolist()), _solved(ODD, odd), _solved(EVEN, even))


def _solved(terms: Numbers, phase: Numbers) -> tuple[float, ...]:
    """The Zernike coefficients of a phase that is given by its terms; empty where it is zero."""
    return tuple((np.linalg.solve(terms, phase) + 0.0).tolist()) if phase.any() else ()


@dataclass(frozen=True)
class CryosparcTerms:
    """The optics of a group in cryoSPARC's terms, with the part that defocus and phase shift must take up.

    low[4]: the phase in radians that adds to gamma, in the terms 1, r^2 sin 2, r^2 and r^2 cos 2, and that goes into
    defocus and phase shift. lost: whether the group has aberrations of higher order, which cryoSPARC does not know.
    """

    lengths: Lengths
    cs_mm: float
    low: Numbers
    lost: bool


def cryosparc_terms(group: OpticsGroup) -> CryosparcTerms:
    """The inverse of `relion_terms`. Every term up to the fourth order keeps its phase."""
    wavelength = group.wavelength
    odd = ODD @ np.array([*group.odd_zernike[:6], *[0.0] * (6 - len(group.odd_zernike))])
    even = EVEN @ np.array([*group.even_zernike[:9], *[0.0] * (9 - len(group.even_zernike))])
    third, fourth = 2.0 * math.pi * wavelength**2, 2.0 * math.pi * wavelength**3
    tilt = np.array(group.beam_tilt) * 1e-3 * group.spherical_aberration * 1e7 - odd[[4, 3]] / third
    lengths = Lengths(shift=-odd[[1, 0]] / (2.0 * math.pi), tilt=tilt, trefoil=-3.0 * odd[[5, 2]] / third,
                      tetra=np.concatenate([even[[7, 5]], 4.0 * even[[8, 4]]]) / fourth)
    cs_mm = group.spherical_aberration + 4.0 * float(even[6]) / fourth * 1e-7
    return CryosparcTerms(lengths, cs_mm, even[:4], any(group.odd_zernike[6:]) or any(group.even_zernike[9:]))


def with_low_orders(defocus: Defocus, low: Numbers, voltage: float) -> Defocus:
    """The defocus changed so that it takes up a phase low[4] of `CryosparcTerms`.

    This is exact, because that phase is a defocus and a phase shift. voltage in kV.
    """
    if not low.any():
        return defocus
    scale = 1.0 / (math.pi * electron_wavelength(voltage))
    mean = 0.5 * (defocus.u + defocus.v) - scale * low[2]
    half, twice = 0.5 * (defocus.u - defocus.v), 2.0 * defocus.angle
    cosine, sine = half * twice.cos() - scale * low[3], half * twice.sin() - scale * low[1]
    half = cosine.hypot(sine)
    return Defocus(mean + half, mean - half, 0.5 * sine.atan2(cosine), defocus.phase_shift - low[0], defocus.bfactor,
                   defocus.scale)
