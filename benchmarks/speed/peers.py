"""Other slice projectors in torch, where they are installed: the same work through their own interfaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

Work = Callable[[Tensor], object]


@dataclass(frozen=True)
class Projector:
    """A package: functions that make, for a volume or a box and its padding, the work on rotations [r,3,3]."""

    name: str
    extraction: Callable[[Tensor, int], Work]
    insertion: Callable[[int, int, torch.Generator], Work]


def peers() -> tuple[list[Projector], dict[str, str]]:
    """The packages that can be imported, and why the others cannot."""
    found, absent = [], {}
    for name, make in (("torch-projectors", _torch_projectors), ("torch-fourier-slice", _torch_fourier_slice)):
        try:
            found.append(make())
        except (ImportError, OSError) as error:
            absent[name] = str(error).splitlines()[0]
    return found, absent


def _torch_projectors() -> Projector:
    torch_projectors = import_module("torch_projectors")

    def extraction(volume: Tensor, padding: int) -> Work:
        box = volume.shape[-1]
        padded = torch.nn.functional.pad(volume, (box * (padding - 1) // 2,) * 6)
        transform = torch.fft.rfftn(torch.fft.ifftshift(padded))[None]
        return lambda rotations: torch_projectors.project_3d_to_2d_forw(
            transform, rotations.float()[None], output_shape=(box, box), oversampling=float(padding),
            fourier_radius_cutoff=box / 2)

    def insertion(box: int, padding: int, random: torch.Generator) -> Work:
        held: list[tuple[Tensor, Tensor]] = []

        def work(rotations: Tensor) -> object:
            if not held:
                size = (1, len(rotations), box, box // 2 + 1)
                held.append((torch.randn(size, dtype=torch.complex64, generator=random),
                             torch.rand(size, generator=random)))
            values, weights = held[0]
            return torch_projectors.backproject_2d_to_3d_forw(
                values, rotations.float()[None], weights, oversampling=float(padding), fourier_radius_cutoff=box / 2)

        return work

    return Projector("torch-projectors", extraction, insertion)


def _torch_fourier_slice() -> Projector:
    slices = import_module("torch_fourier_slice")

    # it has no padding of its own: slices are as wide as the padded volume and computed up to the image's Nyquist
    # frequency
    def extraction(volume: Tensor, padding: int) -> Work:
        box = volume.shape[-1]
        padded = torch.nn.functional.pad(volume, (box * (padding - 1) // 2,) * 6)
        transform = torch.fft.fftshift(torch.fft.rfftn(torch.fft.fftshift(padded)), dim=(0, 1))
        return lambda rotations: slices.extract_central_slices_rfft_3d(
            transform, rotations.float(), fftfreq_max=0.5 / padding)

    def insertion(box: int, padding: int, random: torch.Generator) -> Work:
        size = box * padding
        held: list[Tensor] = []

        def work(rotations: Tensor) -> object:
            if not held:
                held.append(torch.randn(len(rotations), size, size // 2 + 1, dtype=torch.complex64, generator=random))
            return slices.insert_central_slices_rfft_3d(held[0], (size,) * 3, rotations.float(),
                                                        fftfreq_max=0.5 / padding)

        return work

    return Projector("torch-fourier-slice", extraction, insertion)
