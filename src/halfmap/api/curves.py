"""Fourier shell correlation of two half maps, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from halfmap.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfmap.workflows.half_map_pair import HalfMaps

    Float64 = NDArray[np.float64]

NAMES = ("unmasked", "spherical", "masked", "randomised", "corrected")


@dataclass(frozen=True, eq=False)
class Curves:
    """The FSC of two half maps by shell [s], s = 0 .. box // 2.

    frequency [s] in 1/A; unmasked, spherical (within a sphere), masked, randomised (masked, with random phases beyond
    ``randomised_from`` A) and corrected (Chen 2013) [s]; voxel_size in A; mask [z, y, x]: that of the masked curves,
    where it was made or given here; findings: what is to be said of the curves.
    """

    frequency: Float64
    unmasked: Float64
    spherical: Float64
    masked: Float64
    randomised: Float64
    corrected: Float64
    voxel_size: float
    randomised_from: float | None = None
    mask: NDArray[np.float32] | None = None
    findings: tuple[Finding, ...] = field(default=())

    def resolution(self, curve: str = "corrected", threshold: float = 0.143) -> float | None:
        """Where a curve first falls below the threshold, in A, linear between shells; None if it never does."""
        import torch

        from halfmap.validation.fsc import crossing_shell

        if curve not in NAMES:
            raise ValueError(f"curve {curve!r}: choose from {', '.join(NAMES)}")
        shell = crossing_shell(torch.from_numpy(getattr(self, curve)), threshold)
        return None if shell is None else 1 / (shell * float(self.frequency[1]))

    def _repr_html_(self) -> str:
        from halfmap.api.notebook import curves_html

        return curves_html(self)


def _frequency(shells: int, box: int, voxel_size: float) -> Float64:
    import numpy as np

    return np.arange(shells) / (box * voxel_size)


def curves_of_pair(pair: HalfMaps) -> Curves:
    """The curves of two half maps that were read."""
    found: dict[str, Any] = {name: getattr(pair.curves, name).numpy() for name in NAMES}
    start = pair.curves.from_shell
    return Curves(
        _frequency(len(found["unmasked"]), pair.box, pair.pixel_size), **found, voxel_size=pair.pixel_size,
        randomised_from=pair.box * pair.pixel_size / start if start <= pair.box // 2 else None,
        mask=pair.mask.numpy(), findings=tuple(pair.verdict()))


def curves_of_record(record: Mapping[str, Any], findings: tuple[Finding, ...]) -> Curves | None:
    """The curves in the record of an iteration; None where it has none."""
    import numpy as np

    keys = {name: "fsc" if name == "unmasked" else f"fsc_{name}" for name in NAMES}
    if any(record.get(key) is None for key in (*keys.values(), "box", "pixel_size")):
        return None
    found: dict[str, Any] = {name: np.array([np.nan if one is None else one for one in record[key]], dtype=np.float64)
             for name, key in keys.items()}
    box, voxel_size = int(record["box"]), float(record["pixel_size"])
    return Curves(_frequency(len(found["unmasked"]), box, voxel_size), **found, voxel_size=voxel_size,
                  findings=findings)
