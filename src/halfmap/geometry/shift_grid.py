"""The in-plane shifts that a search visits."""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.errors import InputError


def shift_grid(range_px: float, step_px: float) -> Tensor:
    """Shifts (x, y)[t,2] in pixels (float64) on a square grid within `range_px` of zero, nearest first.

    Raises InputError where the range is negative or the step is not positive.
    """
    if range_px < 0.0 or step_px <= 0.0:
        raise InputError(
            f"shift search of range {range_px:g} and step {step_px:g} pixels; "
            "the range must not be negative and the step must be positive"
        )
    steps = int(range_px / step_px + 1e-6)
    line = torch.arange(-steps, steps + 1, dtype=torch.float64) * step_px
    shifts = torch.cartesian_prod(line, line)
    radius = shifts.norm(dim=1)
    order = torch.argsort(radius, stable=True)
    return shifts[order[radius[order] <= range_px + 1e-6 * step_px]]
