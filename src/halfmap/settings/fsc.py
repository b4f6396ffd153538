"""What a user can choose for ``halfmap fsc``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FscSettings:
    """Settings of ``halfmap fsc``. They are checked where the maps are read."""

    half1: Path = field(metadata={"help": "raw half map", "short": "half1.mrc", "positional": True})
    half2: Path = field(metadata={"help": "the other raw half map", "short": "half2.mrc", "positional": True})
    mask: Path | None = field(default=None, metadata={
        "help": "mask for the masked and corrected curves, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "made from the maps"})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the spherical mask, which also bounds the one made from the maps", "unit": "A",
        "none": "0.85 of the box"})
    out: Path | None = field(default=None, metadata={
        "help": "folder for curves and mask; made if absent", "short": "folder", "none": "only print"})
