"""The power of a particle's signal by shell, from two maps of it that were filtered.

References are half maps behind a Wiener filter. With signal S and noise N it is w = S / (S + N): a reference has the
power w^2 (S + N) = w S, and in common with the other one w^2 S. The square of the former over the latter is S.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.fourier.shells import hermitian_weights, shell_index_3d, shell_sum
from halfmap.fourier.transform import volume_fft

SMOOTHED = 3  # shells over which the filter is averaged
LEAST_FILTER = 0.05  # what two maps have in common in shells of less is not known well


def signal_power(first: Tensor, second: Tensor) -> Tensor:
    """Mean power [s] of a coefficient, of the signal that maps [z, y, x] with noise of their own share, in float64 on
    their device. Of two maps without noise it is their power."""
    box, count = first.shape[-1], first.shape[-1] // 2 + 1
    transforms = [volume_fft(one) for one in (first, second)]
    shell = shell_index_3d(box).to(first.device)
    each = hermitian_weights(box).to(first.device).expand(shell.shape)

    def mean(left: Tensor, right: Tensor) -> Tensor:
        product = (left.real.double() * right.real).add_(left.imag.double() * right.imag)
        return shell_sum(product.mul_(each), shell, count)

    one, two = (mean(part, part) for part in transforms)
    power = (one * two).sqrt()
    kernel = torch.full((1, 1, SMOOTHED), 1 / SMOOTHED, dtype=torch.float64, device=first.device)
    share = mean(*transforms) / power.clamp_min(torch.finfo(torch.float64).tiny)
    padded = torch.nn.functional.pad(share[None, None], (SMOOTHED // 2,) * 2, mode="replicate")
    gain = torch.nn.functional.conv1d(padded, kernel)[0, 0].clamp(LEAST_FILTER, 1.0)
    return power / (gain * shell_sum(each.contiguous(), shell, count))
