"""What a user can choose for ``halfmap demo`` and ``halfmap report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class DemoSettings:
    """Settings of ``halfmap demo``."""

    out: Path = field(default=Path("halfmap-demo"), metadata={
        "help": "folder for images and results", "short": "folder"})
    quick: bool = field(default=False, metadata={
        "help": "half of the images, with less noise and coarser pixels"})


@dataclass(frozen=True)
class ReportSettings:
    """Settings of ``halfmap report``."""

    run: Path = field(metadata={"help": "the run's folder", "short": "RUN", "positional": True})
