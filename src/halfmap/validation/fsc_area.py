"""The area under an FSC curve and its standard deviation: a smoother criterion than where a curve crosses a threshold.

Half maps are A = S + n1, B = S + n2 with the same signal and independent noise. To first order in the fluctuations
(delta method) the FSC F of a shell of N independent real components has the variance (1 - F)^2 (1 + 2 F - F^2) / N,
with the signal taken as given. A mask m ties coefficients together, also across neighbouring shells: in a sum over all
shells each coefficient counts as 1 / I of an independent one, I = voxels sum m^4 / (sum m^2)^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.validation.halfmaps import null_band


@dataclass(frozen=True)
class Area:
    """Mean correlation over a range of shells, and its standard deviation over half maps with different noise."""

    mean: float
    sd: float


def fsc_area(curve: Tensor, beyond: float, mask: Tensor | None = None) -> Area:
    """Mean of curve[s], s = 0 .. box // 2, from the shell `beyond` (not included, may be fractional) to Nyquist.

    mask[z,y,x]: the mask that both maps had. Raises ValueError where no shell is left.
    """
    box = 2 * (len(curve) - 1) if mask is None else mask.shape[-1]
    shells = torch.arange(len(curve)) > beyond
    if not shells.any():
        raise ValueError(f"no shell beyond {beyond:g} of {len(curve) - 1}")
    null = null_band(box)[shells].to(curve)
    known = curve[shells].clamp(0, 1)
    variance = ((1 - known) * null).square() * (1 + 2 * known - known.square())
    if mask is not None:
        power = mask.double().square()
        variance = variance * float(power.numel() * power.square().sum() / power.sum().square())
    return Area(float(curve[shells].mean()), float(variance.sum().sqrt()) / int(shells.sum()))
