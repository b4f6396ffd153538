"""Noise, contrast and the spread of shifts: what an expectation step learns about images beside their poses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses
from halfmap.expectation.search import Reference
from halfmap.imaging.forward import BandImages
from halfmap.refinement.state import PoseTable, State


@dataclass
class Tally:
    """Sums over images that re-estimate noise and contrast, and where the time went.

    noise[g], count[g]: residual power and number of coefficients by shell [s] of each optics group; cross [n], norm
    [n]: of each scale group, <image, model> and <model, model>, whitened; seconds: wall time by stage.
    """

    noise: list[Tensor]
    count: list[Tensor]
    cross: Tensor
    norm: Tensor
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "search", "insert"), 0.0))

    @staticmethod
    def zeros(state: State) -> Tally:
        """Nothing counted yet."""
        zero = torch.zeros_like(state.scale, dtype=torch.float64)
        noise, count = ([torch.zeros_like(s) for s in state.sigma2] for _ in range(2))
        return Tally(noise, count, zero, zero.clone())


def add_residuals_(
    tally: Tally, batch: BandImages, found: Poses, reference: Reference, groups: Tensor, scale_group: Tensor, limit: int
) -> None:
    """Count the residuals of a batch at its best poses.

    groups [b], scale_group [b]: optics group and scale group of each image; limit: last shell that contrast is measured
    to.
    """
    geometry = batch.geometry
    slices = kernels.project_slices(
        reference.volume, geometry.coords * reference.padding, found.rotations[:, 0]
    )
    freq = geometry.band.kxy.double() * (2 * math.pi / geometry.band.box)
    angle = (found.shifts[:, 0] @ freq.T).float()
    model = batch.ctf * slices
    data = batch.scored * torch.polar(torch.ones_like(angle), angle)
    residual = data - batch.scale[:, None] * model
    power = (residual.real**2 + residual.imag**2).double()
    held = geometry.band.shell_sum(torch.ones_like(power[0])).cpu()
    for group in groups.unique().tolist():
        rows = torch.nonzero(groups == group)[:, 0].to(power.device)
        shells = geometry.band.shell_sum(power[rows].sum(dim=0)).cpu() / batch.mask_power
        tally.noise[group][: len(shells)] += shells
        tally.count[group][: len(shells)] += held * len(rows)
    k = geometry.count(limit)
    weighted = model[:, :k] / batch.sigma2[..., :k]
    cross = (data[:, :k].real * weighted.real + data[:, :k].imag * weighted.imag).double().sum(dim=1)
    norm = (model[:, :k].real * weighted.real + model[:, :k].imag * weighted.imag).double().sum(dim=1)
    tally.cross.index_add_(0, scale_group, cross.cpu())
    tally.norm.index_add_(0, scale_group, norm.cpu())


def updated_noise(state: State, tally: Tally) -> tuple[Tensor, ...]:
    """Noise power by shell from the residuals. Shells that were not measured keep their value."""
    result = []
    for old, power, count in zip(state.sigma2, tally.noise, tally.count, strict=True):
        result.append(torch.where(count > 0, power / count.clamp_min(1), old))
    return tuple(result)


def updated_scale(state: State, tally: Tally) -> Tensor:
    """Contrast of each scale group, kept within a factor 5 of the median.

    The new map fits the images at the old contrast, so the new contrast must be the old one on average: what all groups
    share is left to the map. (A mean of 1, weighted by power, would jump with the noise estimate of an optics group.)
    """
    measured = tally.norm > 0
    if not bool(measured.any()):
        return state.scale
    scale = torch.where(measured, tally.cross / tally.norm.clamp_min(1e-30), torch.nan)
    middle = scale.nanmedian()
    scale = scale.nan_to_num(float(middle)).clamp(min=float(middle) / 5, max=float(middle) * 5)
    old = state.scale.to(scale)
    weight = old * tally.norm
    return (scale * (old * weight).sum() / (scale * weight).sum()).to(state.scale)


def updated_shift_sigma(poses: PoseTable, pixel_size: Tensor) -> float:
    """Spread of the shifts along one axis in angstrom, from best shifts and their posterior variance (an EM update).

    pixel_size [b]: of each particle's image.
    """
    square = poses.shifts[:, 0].double().square().mean(dim=1) + poses.shift_sd.double().square()
    return float((square * pixel_size**2).mean().sqrt())
