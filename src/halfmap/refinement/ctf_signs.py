"""Whether images have the sign that their CTF says, where it is positive and where it is negative.

Images whose phases were flipped, and a defocus that is far from right, show in nothing else: poses and map are found
from the lobes whose sign happens to agree, and the others spoil them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.finding import Finding

SURE = 6.0  # standard deviations of the noise by which a lobe has to contradict


@dataclass(frozen=True)
class SignSums:
    """Sums over images at their best poses, whitened, float64 [2] each: over coefficients where the CTF is positive,
    and where it is negative.

    cross: <image, model>; norm: <model, model>. Where the CTF is right cross is norm times the contrast.
    """

    cross: Tensor
    norm: Tensor

    @staticmethod
    def zeros() -> SignSums:
        """Nothing counted yet."""
        return SignSums(*torch.zeros(2, 2, dtype=torch.float64))

    def add_(self, other: SignSums) -> None:
        """Count more images."""
        self.cross.add_(other.cross)
        self.norm.add_(other.norm)

    def contradicted(self) -> list[Finding]:
        """A finding where the images have the opposite sign of what the CTF says in one kind of lobes.

        The noise of cross has the variance norm / 2: whitened noise is complex with a power of 1.
        """
        deviation = self.cross / (0.5 * self.norm).sqrt().clamp_min(1e-30)
        if not bool((deviation < -SURE).any()):
            return []
        slope = self.cross / self.norm.clamp_min(1e-30)
        text = (f"where the CTF is positive the images are {float(slope[0]):.2f} times what the map says, and where it "
                f"is negative {float(slope[1]):.2f} times: signs are wrong in one of them. Were the phases flipped "
                "(--phase-flipped), or are defocus, voltage or pixel size wrong")
        return [Finding("images contradict the CTF", text, "optics")]
