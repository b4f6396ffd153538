"""What a command leaves when it has come to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """What a command leaves.

    out: the folder or file that it wrote; None: nothing was to be written. succeeded: whether its exit status is 0,
    else it is 1. values: what it found, as plain JSON values, where no file may hold it.
    """

    out: Path | None
    succeeded: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)
