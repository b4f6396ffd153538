"""What all images of one optics group share: microscope, pixel size and aberrations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

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


class BeamTilt(NamedTuple):
    """The tilt of the beam along x and y in mrad (rlnBeamTiltX, rlnBeamTiltY)."""

    x: float = 0.0
    y: float = 0.0

    def __repr__(self) -> str:
        return repr(tuple(self))  # as plain numbers: the digest of a run's particles is made of this text


class MagnificationMatrix(NamedTuple):
    """What takes frequencies of the image to those of the specimen: rlnMagMat00, 01, 10 and 11."""

    xx: float = 1.0
    xy: float = 0.0
    yx: float = 0.0
    yy: float = 1.0

    def __repr__(self) -> str:
        return repr(tuple(self))  # as that of `BeamTilt`

    @property
    def determinant(self) -> float:
        """By how much areas in Fourier space grow; negative where the matrix mirrors."""
        return self.xx * self.yy - self.xy * self.yx


UNTILTED = BeamTilt()
UNDISTORTED = MagnificationMatrix()


@dataclass(frozen=True)
class Frame:
    """What decides where the coefficients of an image lie in the reference: box in pixels, pixel size in A, and
    magnification as in `OpticsGroup`. Optics groups that differ in anything else share slices."""

    box: int
    pixel_size: float
    magnification: MagnificationMatrix


@dataclass(frozen=True)
class OpticsGroup:
    """The optics of a group of images, in the units of a RELION 3.1 optics table.

    voltage in kV, spherical_aberration in mm, pixel_size in A, box in pixels. odd_zernike and even_zernike are phase
    coefficients in radians, in RELION's order, at spatial frequencies in 1/A. number is rlnOpticsGroup (1-based).
    ctf_state: what was done to the images about their CTF.

    Raises InputError where a value cannot belong to a microscope.
    """

    name: str
    voltage: float
    spherical_aberration: float
    amplitude_contrast: float
    pixel_size: float
    box: int
    beam_tilt: BeamTilt = UNTILTED
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: MagnificationMatrix = UNDISTORTED
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
        if self.magnification.determinant <= 0.0:
            return "the magnification matrix cannot be inverted or mirrors the image"
        return None

    @classmethod
    def from_checkpoint(cls, **kept: Any) -> OpticsGroup:
        """The group from its fields as a checkpoint gives them back, where a named tuple is a plain one."""
        tilt, magnification = BeamTilt(*kept["beam_tilt"]), MagnificationMatrix(*kept["magnification"])
        return cls(**kept | {"beam_tilt": tilt, "magnification": magnification})

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
        return replace(self, name="", number=1, beam_tilt=UNTILTED, odd_zernike=())

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
        return self.magnification != UNDISTORTED


def names_of(groups: Sequence[OpticsGroup]) -> str:
    """The names of one or two optics groups; of more, that of the first and how many others there are."""
    if len(groups) <= 2:
        return " and ".join(group.name for group in groups)
    return f"{groups[0].name} and {len(groups) - 1:,} more"
