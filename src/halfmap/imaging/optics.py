"""What all images of one optics group share: microscope, pixel size and aberrations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from halfmap.errors import InputError

LOWEST, HIGHEST = 1.0, 10_000.0  # kV: no microscope lies outside, and volts and megavolts do


def electron_wavelength(voltage: float) -> float:
    """Relativistic electron wavelength in A for an acceleration voltage in kV, with RELION's constants."""
    volts = voltage * 1e3
    return 12.2643247 / math.sqrt(volts * (1.0 + volts * 0.978466e-6))


class CtfState(Enum):
    """What was done to images about their CTF c before they were stored: nothing, sign(c) y in place of y, or c y."""

    UNTOUCHED = "untouched"
    PHASE_FLIPPED = "phase-flipped"
    PREMULTIPLIED = "premultiplied"


@dataclass(frozen=True)
class Frame:
    """What decides where the coefficients of an image lie in the reference: box in pixels, pixel size in A, and
    magnification as in `OpticsGroup`. Optics groups that differ in anything else share slices."""

    box: int
    pixel_size: float
    magnification: tuple[float, float, float, float]


@dataclass(frozen=True)
class OpticsGroup:
    """The optics of a group of images, in the units of a RELION 3.1 optics table.

    voltage in kV, spherical_aberration in mm, pixel_size in A, box in pixels, beam_tilt (x, y) in mrad. odd_zernike and
    even_zernike are phase coefficients in radians, in RELION's order, at spatial frequencies in 1/A. magnification is
    rlnMagMat00, 01, 10, 11; number is rlnOpticsGroup (1-based). ctf_state: what was done to the images about their CTF.

    Raises InputError where a value cannot belong to a microscope.
    """

    name: str
    voltage: float
    spherical_aberration: float
    amplitude_contrast: float
    pixel_size: float
    box: int
    beam_tilt: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    number: int = 1
    ctf_state: CtfState = CtfState.UNTOUCHED

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InputError(f"optics group '{self.name}': {problem}; correct the optics table of the input")

    def _problem(self) -> str | None:
        """What is wrong with the first value that is not physical; None where all are."""
        numbers = [self.voltage, self.spherical_aberration, self.amplitude_contrast, self.pixel_size,
                   *self.beam_tilt, *self.odd_zernike, *self.even_zernike, *self.magnification]
        if not all(math.isfinite(value) for value in numbers):
            return "a value is not a finite number"
        if not LOWEST <= self.voltage <= HIGHEST:
            return (f"voltage {self.voltage:g} is not in kV (from {LOWEST:g} to {HIGHEST:g} is taken, 60 to 300 is "
                    "usual)")
        if self.spherical_aberration < 0.0:
            return f"spherical aberration {self.spherical_aberration:g} mm is negative"
        if not 0.0 <= self.amplitude_contrast <= 1.0:
            return f"amplitude contrast {self.amplitude_contrast:g} is not between 0 and 1"
        if self.pixel_size <= 0.0:
            return f"pixel size {self.pixel_size:g} A is not positive"
        if self.box < 1:
            return f"box of {self.box} pixels is not positive"
        m00, m01, m10, m11 = self.magnification
        if m00 * m11 - m01 * m10 <= 0.0:
            return "the magnification matrix cannot be inverted or mirrors the image"
        return None

    @property
    def wavelength(self) -> float:
        """Electron wavelength in A."""
        return electron_wavelength(self.voltage)

    @property
    def frame(self) -> Frame:
        """Box, pixel size and magnification."""
        return Frame(self.box, self.pixel_size, self.magnification)

    @property
    def alike(self) -> OpticsGroup:
        """The group without name, number and odd aberrations: equal for groups whose images have the same power."""
        return replace(self, name="", number=1, beam_tilt=(0.0, 0.0), odd_zernike=())

    @property
    def box_length(self) -> float:
        """Side of the image in A: coefficient k lies at the spatial frequency k / box_length."""
        return self.box * self.pixel_size

    @property
    def has_odd_aberration(self) -> bool:
        """Whether beam tilt or an odd Zernike coefficient shifts the phases of the images."""
        return any(self.beam_tilt) or any(self.odd_zernike)

    @property
    def has_distortion(self) -> bool:
        """Whether the magnification matrix differs from the identity."""
        return self.magnification != (1.0, 0.0, 0.0, 1.0)


def names_of(groups: Sequence[OpticsGroup]) -> str:
    """The names of one or two optics groups; of more, that of the first and how many others there are."""
    if len(groups) <= 2:
        return " and ".join(group.name for group in groups)
    return f"{groups[0].name} and {len(groups) - 1:,} more"
