"""Which of several classes an image shows, each a reference with poses of its own.

With the share pi_k of all images that class k has, and the evidence Z_k of a particle of it in an image (posterior.py),
the class has probability pi_k Z_k / sum_j pi_j Z_j there. At given poses, of which no width is known, the likelihood
takes the place of the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.expectation.posterior import Poses, merge_modes
from halfmap.runtime.device import sent

SHARE_LEAST = 1e-4  # of a class among all images: none is ruled out
WEIGHT_LEAST = 1e-30  # of a class's best mode, from which the next search of the class starts


@dataclass(frozen=True)
class Modes:
    """Modes c of every image b, those of the most likely class first, with their weight [b, c] and class [b, c]."""

    poses: Poses
    weight: Tensor
    class_of: Tensor


@dataclass(frozen=True)
class Mixture:
    """Images under every class k: their poses[k], the posterior share [b, k] of the class, and the log evidence [b] of
    a particle of whatever class, relative to noise alone. All are float64."""

    poses: tuple[Poses, ...]
    share: Tensor
    log_evidence: Tensor

    @staticmethod
    def of(poses: tuple[Poses, ...], log_evidence: Tensor, shares: Tensor, sharpness: float = 1.0) -> Mixture:
        """Compare classes by their log_evidence [b, k] and their shares [k] of all images.

        sharpness: what differences of log evidence are multiplied by: below 1, classes that are hardly known do not
        claim images for good.
        """
        prior = sent(shares, log_evidence.device).to(log_evidence.dtype).clamp_min(SHARE_LEAST).log()
        share = torch.softmax(prior + sharpness * log_evidence, dim=1)
        return Mixture(poses, share, torch.logsumexp(prior + log_evidence, dim=1))

    @staticmethod
    def drawn(poses: Poses, log_evidence: Tensor, classes: Tensor, count: int) -> Mixture:
        """All images against one reference, with log_evidence [b], each in a class that was drawn for it: ``classes``
        int64 [b], out of ``count``."""
        share = torch.nn.functional.one_hot(classes, count).to(poses.gain)
        return Mixture((poses,) * count, share, log_evidence)

    @property
    def best(self) -> Tensor:
        """The most likely class [b]."""
        return self.share.argmax(dim=1)

    def modes(self) -> Modes:
        """The modes of all classes. The best one of a class is there whatever its weight."""
        if len(self.poses) == 1:
            only = self.poses[0]
            return Modes(only, only.weight, torch.zeros_like(only.gain, dtype=torch.int8))
        width = max(p.gain.shape[1] for p in self.poses)
        stacked = [torch.stack([_widened(getattr(p, name), width, fill) for p in self.poses], dim=1)
                   for name, fill in (("rotations", 0.0), ("shifts", 0.0), ("gain", -torch.inf), ("precision", 0.0))]
        weight = torch.stack([_widened(p.weight, width, 0.0) for p in self.poses], dim=1) * self.share[..., None]
        weight[..., 0] = weight[..., 0].clamp_min(WEIGHT_LEAST)
        order = self.share.argsort(dim=1, descending=True, stable=True)

        def sorted_by_class(values: Tensor) -> Tensor:
            index = order.view(*order.shape, *[1] * (values.ndim - 2))
            return torch.take_along_dim(values, index, dim=1).flatten(1, 2)

        poses = Poses(*(sorted_by_class(values) for values in stacked))
        class_of = order.to(torch.int8)[..., None].expand(-1, -1, width).flatten(1, 2)
        return Modes(poses, sorted_by_class(weight), class_of)


def starts_of_class(known: Poses, own: Tensor, operators: Tensor, angle: float) -> Poses:
    """What a search of one class starts from: the modes of ``known`` that are its own [b, c], best first, and the best
    one of all, the first, where it lies farther than ``angle`` (radians) from these."""
    first = torch.zeros_like(own)
    first[:, 0] = True
    gain = torch.where(own | first, known.gain, -torch.inf)
    gain = torch.where(first & ~own, gain.clamp(max=-1e6), gain)  # it gives way to any of the class's own
    most = int((own | first).sum(dim=1).max())
    return merge_modes(Poses(known.rotations, known.shifts, gain, known.precision), operators, angle, torch.inf, most)


def _widened(values: Tensor, width: int, fill: float) -> Tensor:
    """values [b, c, ...] with as many columns as ``width``."""
    more = values.new_full((len(values), width - values.shape[1], *values.shape[2:]), fill)
    return torch.cat([values, more], dim=1)
