"""Optics and contrast that a user can give where a particle file lacks them: shared by commands that read particles."""

from __future__ import annotations

from dataclasses import dataclass, field

_GROUP = "what the particle file lacks (a value that contradicts the file is refused)"
_FILE = "that of the particle file"


@dataclass(frozen=True, kw_only=True)
class OpticsOptions:
    """Values of the microscope and of the images, the same for all particles."""

    voltage: float | None = field(default=None, metadata={
        "help": "acceleration voltage", "unit": "kV", "above": 0, "none": _FILE, "group": _GROUP})
    cs: float | None = field(default=None, metadata={
        "help": "spherical aberration", "unit": "mm", "at_least": 0, "none": _FILE, "group": _GROUP})
    amplitude_contrast: float | None = field(default=None, metadata={
        "help": "amplitude contrast, from 0 to 1", "unit": "fraction", "at_least": 0, "none": _FILE, "group": _GROUP})
    pixel_size: float | None = field(default=None, metadata={
        "help": "pixel size of the particle images", "unit": "A", "above": 0, "none": _FILE, "group": _GROUP})

    @property
    def optics(self) -> dict[str, float]:
        """What was given, by option."""
        values = {"--voltage": self.voltage, "--cs": self.cs, "--amplitude-contrast": self.amplitude_contrast,
                  "--pixel-size": self.pixel_size}
        return {option: value for option, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class CtfStateOptions(OpticsOptions):
    """The same, and what was done to the images about their CTF."""

    phase_flipped: bool = field(default=False, metadata={
        "help": "the images' phases were flipped by their CTF, and the particle file does not say so",
        "aliases": ("--ctf_phase_flipped",), "group": _GROUP})
    ctf_premultiplied: bool = field(default=False, metadata={
        "help": "the images were multiplied by their CTF, and the particle file does not say so", "group": _GROUP})


@dataclass(frozen=True, kw_only=True)
class ImageOptions(CtfStateOptions):
    """The same, and whether protein is dark in the images."""

    invert_contrast: bool = field(default=False, metadata={
        "help": "multiply the images by -1 when they are read: for images in which protein is dark; the run's "
                "particles.star says so in rlnCtfScalefactor", "group": _GROUP})
