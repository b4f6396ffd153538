"""Sufficient statistics of the M-step. The expectation step leaves them and nothing else.

A Backprojection holds, on the oversampled half volume, the sums over images of w ctf y / sigma2 (numerator) and
w f ctf^2 / sigma2 (weight), with f the share of the signal that the box holds (imaging.forward.BandImages). It adds:
over batches, processes and quarter sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume_extent
from halfmap.kernels.poses import Samples
from halfmap.runtime.device import sent

Place = Callable[[Tensor], Tensor]  # stores values somewhere, and returns them from there
CORE = 24  # points of the half volume from its centre to which a core reaches; see Backprojection.with_core


def in_memory(values: Tensor) -> Tensor:
    """The place that leaves sums where they are."""
    return values


_place: ContextVar[Place] = ContextVar("place", default=in_memory)
_bench: ContextVar[torch.device | None] = ContextVar("bench", default=None)


@contextmanager
def sums_put(place: Place, bench: torch.device | None = None) -> Iterator[None]:
    """Within the block, sums go to ``place`` as soon as they are added up, finished or joined.

    bench: the device to which they come back for as long as they are worked on, one after the other, where that is
    another one than that of their place; None: they are worked on where they lie.
    """
    tokens = _place.set(place), _bench.set(bench)
    try:
        yield
    finally:
        _place.reset(tokens[0])
        _bench.reset(tokens[1])


@dataclass(frozen=True)
class Backprojection:
    """Sums on the half volume of a map of ``box`` voxels, for shells up to ``limit``.

    sums [z, y, x, 3]: real and imaginary part of the numerator, and weight; z and y centred, x >= 0
    (fourier.transform.half_volume). folded: whether the plane x = 0 is Hermitian already. kernel: what samples are
    inserted with (kernels.insert_slices_). core float64 [z, y, x, 3]: what is still to be added to the middle of
    ``sums`` while images are inserted (`with_core`); None in complete statistics, which alone may be read.
    """

    sums: Tensor
    box: int
    padding: int
    limit: int
    folded: bool = False
    kernel: str = "trilinear"
    core: Tensor | None = None

    @staticmethod
    def zeros(box: int, padding: int, limit: int, like: Tensor, kernel: str = "trilinear") -> Backprojection:
        """Empty sums with dtype and device of ``like``."""
        m = half_volume_extent(padding, limit)
        return Backprojection(like.new_zeros((2 * m + 1, 2 * m + 1, m + 1, 3)), box, padding, limit, kernel=kernel)

    def insert_(
        self, values: Tensor, weights: Tensor, coords: Tensor, band: Band, samples: Samples,
        curvature: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Add values[b, k] (ctf y / sigma2) and weights[b, k] (f ctf^2 / sigma2) in place; see kernels.insert_slices_.

        curvature [b]: of the slices, at ``coords`` (imaging.forward.Spread); None: flat.
        """
        bent = None if curvature is None else curvature / self.padding
        place = coords * self.padding
        kernels.insert_slices_(self.sums, values, weights, place, band.kxy, band.box, samples, self.kernel, bent)
        if self.core is not None:
            middle = self._middle()
            self.core.add_(middle)
            middle.zero_()

    def with_core(self) -> Backprojection:
        """The same, fit for any number of images: what is inserted near the origin is moved into float64 at once.

        A slice passes within a point of a place at radius r (in points of the half volume) with a probability of about
        1 / r, so the sums near the origin grow as the number of images while each addend stays as small as it was. A
        float32 sum of n addends loses about (n / 2^23)^2 / 70 of itself, because addends below half a unit in the last
        place are rounded away. Beyond CORE points, n is a million for four million images of six samples each.
        """
        reach = min(CORE, self.sums.shape[2] - 1)
        shape = (2 * reach + 1, 2 * reach + 1, reach + 1, 3)
        return replace(self, core=self.sums.new_zeros(shape, dtype=torch.float64))

    def completed_(self) -> Backprojection:
        """The sums with the core added, in place. Images may be inserted here afterwards, not into the result."""
        if self.core is not None:
            self._middle().add_(self.core)
            self.core.zero_()
        return replace(self, core=None)

    def beside_core(self) -> Backprojection:
        """The same, on the device of the core where there is one: images are still inserted there."""
        return self if self.core is None else replace(self, sums=self.sums.to(self.core.device))

    def _middle(self) -> Tensor:
        """The part of the sums that the core covers, as a view."""
        assert self.core is not None
        m, reach = self.sums.shape[2] - 1, self.core.shape[2] - 1
        return self.sums[m - reach : m + reach + 1, m - reach : m + reach + 1, : reach + 1]

    def __add__(self, other: Backprojection) -> Backprojection:
        if not self.is_elsewhere:
            return replace(self, sums=self.sums + other.sums).put()
        total = self.on_bench()
        for plane, added in zip(total.sums, other.sums, strict=True):  # there may be no room for both
            plane += sent(added, plane.device)
        return total.put()

    def put(self) -> Backprojection:
        """The same statistics, stored where `sums_put` says."""
        return replace(self, sums=_place.get()(self.sums))

    @property
    def is_elsewhere(self) -> bool:
        """Whether the sums lie on another device than they are worked on."""
        bench = _bench.get()
        return bench is not None and self.sums.device.type != bench.type

    def on_bench(self) -> Backprojection:
        """The same statistics where they are worked on: a copy if they lie elsewhere, which does not stay behind."""
        bench = _bench.get()
        return replace(self, sums=sent(self.sums, bench)) if bench is not None and self.is_elsewhere else self

    def copied(self) -> Backprojection:
        """A copy of the statistics, to be changed where they are worked on."""
        own = self.on_bench() if self.is_elsewhere else replace(self, sums=self.sums.clone())
        return replace(own, core=None if self.core is None else self.core.clone()).held()

    def held(self) -> Backprojection:
        """The same statistics, stored as `sums_put` says for as long as they are worked on."""
        return self if _bench.get() is not None else self.put()

    @property
    def numerator(self) -> Tensor:
        """Complex [z, y, x]."""
        return torch.view_as_complex(self.sums[..., :2].contiguous())

    @property
    def weight(self) -> Tensor:
        """Real [z, y, x]."""
        return self.sums[..., 2]

    def finished(self, operators: Tensor) -> Backprojection:
        """Fold Friedel mates on the plane x = 0, then sum over the point group ``operators`` [o, 3, 3]."""
        return self.copied().finished_(operators)

    def finished_(self, operators: Tensor) -> Backprojection:
        """As `finished`, but in place: the sums here are used up."""
        own = self.on_bench()
        if not own.folded:
            plane = own.sums[:, :, 0]
            mate = plane.flip(0, 1) * plane.new_tensor([1.0, -1.0, 1.0])
            own.sums[:, :, 0] = plane + mate
        folded = replace(own, folded=True)
        if len(operators) > 1:
            radius = self.padding * (self.limit + 0.5) + 1.0
            folded = replace(folded, sums=kernels.symmetrise_(folded.held().sums, operators, radius, self.padding))
        return folded.put()

    def coarser(self, limit: int, box: int) -> Backprojection:
        """The same up to shell ``limit`` only, as sums of a map of ``box`` voxels over the same extent.

        Symmetrising and inverting then cost less. Both boxes must be even, or the same, because the centre voxel has to
        stay where it is; ValueError otherwise.
        """
        if box == self.box and limit >= self.limit:
            return self
        if box != self.box and (box % 2 or self.box % 2):
            raise ValueError(f"boxes of {self.box} and {box} voxels do not share their centre")
        m = (self.sums.shape[0] - 1) // 2
        reach = min(m, half_volume_extent(self.padding, limit))
        part = self.sums[m - reach : m + reach + 1, m - reach : m + reach + 1, : reach + 1]
        sums = replace(self, sums=part).on_bench().sums if self.is_elsewhere else part.clone()
        sums[..., :2] *= (box / self.box) ** 3  # transforms are unscaled sums over voxels
        return replace(self, sums=sums, box=box, limit=min(limit, self.limit))

    def shell_weight(self) -> Tensor:
        """Mean weight over each shell [s = 0..limit] (unpadded shells, float64)."""
        return self._mean_and_count()[0]

    def shell_weights(self, floor: float) -> tuple[Tensor, Tensor]:
        """Arithmetic and harmonic mean [s] of the weights over each shell.

        In the harmonic mean no weight counts as less than ``floor`` times the arithmetic one.
        """
        own = self.on_bench()
        mean, count = own._mean_and_count()
        inverse = kernels.inverse_weight_by_shell(own.sums, floor * mean, self.padding)
        return mean, count / inverse.clamp_min(1e-20)

    def _mean_and_count(self) -> tuple[Tensor, Tensor]:
        total, count = kernels.weight_by_shell(self.on_bench().sums, self.padding, self.limit + 1)
        return total / count.clamp_min(1), count
