"""Priors of a pose: shifts are normal about zero, with the width that the particles themselves show."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ShiftPrior:
    """Zero-centred isotropic normal prior of shifts; precision in 1/pixel^2 (0: flat)."""

    precision: float = 0.0

    @staticmethod
    def from_spread(sigma: float) -> ShiftPrior:
        """Prior with standard deviation sigma (pixels) along each axis."""
        return ShiftPrior(1.0 / max(sigma, 0.25) ** 2)

    def log_density(self, shifts: Tensor) -> Tensor:
        """Log prior [t] of shifts [t, 2], zero at the centre."""
        return -0.5 * self.precision * (shifts**2).sum(dim=-1)
