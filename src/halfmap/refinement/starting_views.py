"""What a found map shows from some sides, beside the mean of the images that are seen from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.transform import half_volume, image_ifft
from halfmap.refinement.soft_em import PADDING, SlicesSeen, SoftStep

APART = 30.0  # degrees between the views that are shown, at least
ALIKE = 10.0  # degrees up to which images are seen alike


@dataclass(frozen=True)
class View:
    """A view: the mean of the images seen from there [y, x], the projection of the map [y, x], and how many images."""

    mean: Tensor
    projection: Tensor
    images: float


def views_of(step: SoftStep, number: int, count: int) -> list[View]:
    """The views of a class with the most images, of the first frame and half, at most ``count`` of them and not
    alike."""
    seen = replace(step.seen[0], sums=step.seen[0].of_class(number))
    chosen = _apart(seen, count)
    if not chosen:
        return []
    k = seen.sums.real.shape[1]
    band = seen.images.geometry.band.prefix(int(seen.images.geometry.band.shell[k - 1]))
    trace = seen.rotations.flatten(1) @ seen.rotations[chosen].flatten(1).T
    near = (trace > 1 + 2 * math.cos(math.radians(ALIKE))).T.to(seen.sums.real)  # [v, r]
    weight = near @ seen.sums.weight
    mean_weight = (band.shell_sum(weight) / band.shell_sum(torch.ones_like(weight)).clamp_min(1))[:, band.shell]
    means = torch.complex(near @ seen.sums.real, near @ seen.sums.imag) / (weight + mean_weight).clamp_min(1e-12)
    images = (near.double() @ seen.sums.mass).tolist()
    limit = int(seen.images.geometry.coords[:k].norm(dim=1).max()) + 1
    volume = half_volume(step.classes[number].joined, PADDING, limit)
    slices = kernels.project_slices(volume, seen.images.geometry.coords[:k] * PADDING, seen.rotations[chosen])
    return [View(_image(mean, band.kxy, band.box), _image(one, band.kxy, band.box), mass)
            for mean, one, mass in zip(means, slices, images, strict=True)]


def _apart(seen: SlicesSeen, count: int) -> Sequence[int]:
    """Slices with the most images whose directions are apart."""
    chosen: list[int] = []
    directions = seen.rotations[:, 2]
    for place in seen.sums.mass.argsort(descending=True).tolist():
        if float(seen.sums.mass[place]) <= 0 or len(chosen) == count:
            break
        near = [float(torch.rad2deg(torch.acos((directions[place] @ directions[other]).abs().clamp(max=1))))
                for other in chosen]
        if all(angle > APART for angle in near):
            chosen.append(place)
    return chosen


def _image(values: Tensor, kxy: Tensor, box: int) -> Tensor:
    """The image [y, x] of coefficients [k] with kx >= 0."""
    spectrum = torch.zeros(1, box, box // 2 + 1, dtype=torch.complex64)
    spectrum[0, kxy[:, 1].cpu() % box, kxy[:, 0].cpu()] = values.cpu().to(torch.complex64)
    on_axis = kxy[:, 0].cpu() == 0  # their mates are stored too
    spectrum[0, -kxy[on_axis.to(kxy.device), 1].cpu() % box, 0] = values.cpu()[on_axis].conj().to(torch.complex64)
    return image_ifft(spectrum, box)[0]
