"""The value that evens a map: see reconstruction/inverse.py for what evening is and how it is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evening:
    """Profiles by shell. Evened, a coefficient of weight w is divided by max(w, share w + added).

    share [s]: the part of w that is kept, 0 to 1. added [s]: the rest times the shell's mean weight, in units of w.
    """

    share: Tensor
    added: Tensor
