"""A solve on a GPU holds no more memory than was planned: all arrays on the pretended accelerator are counted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from devices.conftest import Pretended, accelerator, on_gpu
from torch import Tensor

from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import reference_symmetry, reference_volume
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.statistics import Backprojection, in_memory, sums_put
from halfmap.refinement.memory_plan import Demand, solve_stages
from halfmap.regularisation.protocol import HalfSets
from halfmap.runtime.scratch import on_host
from halfmap.settings.regularisers import DECLARED, regulariser_named
from halfmap.validation.fsc import FscCurves, corrected_fsc

BOX, PIECE = 20, 3000  # points of a half volume that are worked on at once, as few as they are in a large one


@dataclass
class Held:
    """Bytes of arrays on the GPU: now, and the most since ``peak`` was last set; and how many share each memory."""

    now: int = 0
    peak: int = 0
    shared: dict[int, int] = field(default_factory=dict)

    def add(self, made: Pretended) -> None:
        """Count an array for as long as it is there."""
        memory = made.held.untyped_storage()
        place, size = memory.data_ptr(), memory.nbytes()
        self.shared[place] = self.shared.get(place, 0) + 1
        self.now += size * (self.shared[place] == 1)
        self.peak = max(self.peak, self.now)
        weakref.finalize(made, self._remove, place, size)

    def _remove(self, place: int, size: int) -> None:
        self.shared[place] -= 1
        if not self.shared[place]:
            self.now -= size
            del self.shared[place]


@contextmanager
def counted() -> Iterator[Held]:
    """Within the block, arrays of the pretended accelerator are counted."""
    held, make = Held(), Pretended.__new__

    def counting(cls: type[Pretended], values: Tensor) -> Pretended:
        made = make(cls, values)
        held.add(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretended, "__new__", staticmethod(counting))
        yield held


def sums(seed: int) -> Backprojection:
    """Sums of a molecule, the same for all seeds, and noise."""
    empty = Backprojection.zeros(BOX, 2, BOX // 2 - 1, torch.zeros(()))
    m = empty.sums.shape[2] - 1
    q = torch.arange(-m, m + 1.0)
    square = q[:, None, None] ** 2 + q[:, None] ** 2 + q[m:] ** 2
    common, own = (torch.randn(*square.shape, 2, generator=torch.Generator().manual_seed(s)) for s in (9, seed))
    values = 50 * common * (-8 * square / m**2).exp()[..., None] + own
    return replace(empty, sums=torch.cat([values, torch.ones_like(values[..., :1])], dim=-1))


@pytest.mark.parametrize(("name", "group", "apart"), [
    ("nonuniform", "C1", True), ("nonuniform", "C1", False), ("uniform", "C1", True), ("uniform", "C3", True)])
def test_a_solve_holds_what_was_planned(monkeypatch, name, group, apart):
    monkeypatch.setattr(reference_volume, "POINTS", PIECE)
    monkeypatch.setattr(reference_symmetry, "CHUNK", PIECE)
    with accelerator() as gpu, counted() as held:
        made = tuple(tuple(sums(2 * h + q) for q in (0, 1)) for h in (0, 1))
        quarters = made if apart else on_gpu(made)
        mask = spherical_mask(BOX, BOX / 3, 3.0).to(gpu)

        def curves(half1: Tensor, half2: Tensor) -> FscCurves:
            return corrected_fsc(half1, half2, mask, torch.Generator(gpu).manual_seed(0))

        peaks = []
        with sums_put(on_host if apart else in_memory, gpu if apart else None):
            halves = HalfSets.build(quarters, symmetry_group(group).to(gpu), 4.0, curves)
            del quarters
            peaks.append(held.peak)
            halves = halves if DECLARED[name].need.quarters else replace(halves, sums=())
            held.peak = held.now
            regulariser_named(name).solve(halves, mask, {})
        peaks.append(held.peak)
    planned = solve_stages(
        Demand(BOX, 2, BOX // 2 - 1, BOX, 1, 0, 0, group != "C1", name, DECLARED[name].need, gpu=True), apart)
    worked = 100 * PIECE  # bytes of what is worked on at once
    assert peaks[0] < max(planned["sums added up"], planned["half maps"]) + worked
    assert peaks[1] < planned["regulariser"] + worked
    # And not much less: a plan that asks for too much turns work away.
    assert max(peaks) > 0.4 * max(planned.values())
