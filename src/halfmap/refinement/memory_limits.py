"""How much memory a refinement may take, and the plan that keeps to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from halfmap.particles.source import ParticleSource
from halfmap.refinement.memory_plan import Demand, MemoryPlan, demand_of, planned
from halfmap.refinement.schedule import Schedule
from halfmap.regularisation.declaration import Need
from halfmap.runtime.memory import GIGABYTE, allowance

HOST_SPARE = 2  # memory that cannot be paged out is given out in powers of two


@dataclass(frozen=True)
class MemoryLimits:
    """What a user allows. gigabytes: for all processes of a machine (None: what is free); sums: where the sums of the
    map's transform lie, ``memory``, ``disk``, ``auto``, or ``host``, the machine's memory, beside a GPU; batch: images
    worked on at once (0: automatic)."""

    gigabytes: float | None = None
    sums: str = "auto"
    batch: int = 0

    def under(self, plan: MemoryPlan) -> MemoryLimits:
        """The limits from which the same plan is made again, as long as it fits."""
        usual = plan.batch == plan.demand.batch
        sums = self.sums if plan.place == "memory" else plan.place
        return replace(self, sums=sums, batch=self.batch if usual else plan.batch)


@dataclass(frozen=True)
class SolveMethod:
    """What decides the memory of a solve beside its grid.

    regulariser: its name; need: what it holds; padding: of the reference; joined: whether half maps share their
    low resolution; mask_anywhere: whether references are kept within a mask that may lie anywhere in the box; classes:
    how many there are; ewald: as the settings say, whether images are inserted on curved slices.
    """

    regulariser: str
    need: Need
    padding: int
    joined: bool = False
    mask_anywhere: bool = False
    classes: int = 1
    ewald: str = "off"


def plan_memory(
    limits: MemoryLimits, source: ParticleSource, schedule: Schedule, method: SolveMethod, device: torch.device,
    processes: int = 1,
) -> MemoryPlan:  # fmt: skip
    """The quickest way within the limits to refine these particles. processes: how many share the machine.

    Sums that a GPU does not hold go to files where the machine's memory does not hold them either.
    """
    available = available_on(device, limits.gigabytes, processes)
    demand = replace(_demand(source, schedule, method), gpu=device.type != "cpu")
    plan = planned(demand, available, limits.sums)
    if plan.place == "host" and limits.sums == "auto" and HOST_SPARE * plan.moved > allowance(None, processes):
        return replace(plan, place="disk")
    return plan


def _demand(source: ParticleSource, schedule: Schedule, method: SolveMethod) -> Demand:
    table = source.table
    largest = max(range(len(table.optics)), key=lambda g: table.optics[g].box)
    usual = min(len(table), source.batch_size(largest))
    demand = demand_of(
        schedule, method.padding, table.optics[largest].box, usual, method.regulariser, method.need
    )
    # The band of an image whose box is longer than the reference's has more coefficients up to the same resolution.
    longer = max(optics.box_length for optics in table.optics) / (schedule.box * schedule.pixel_size)
    return replace(
        demand, joined=method.joined, kept=0 if method.mask_anywhere else demand.kept, batch_given=source.batch > 0,
        grid_coefficients=math.ceil(demand.grid_coefficients * max(1.0, longer) ** 2), classes=method.classes,
        curved=method.ewald != "off",
    )  # fmt: skip


def available_on(device: torch.device, limit: float | None, processes: int = 1) -> int:
    """Bytes of memory that this process may hold on the device, what it holds already among them.

    limit: of the user for all processes of the machine, in GB; processes: how many there are.
    """
    if device.type == "cpu":
        return allowance(limit, processes)
    free = int(torch.cuda.mem_get_info(device)[0])
    return free if limit is None else min(free, int(limit * GIGABYTE))
