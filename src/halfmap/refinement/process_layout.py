"""How many processes share a run on this machine, and with how many threads each.

A kernel is quick on about 8 threads and wastes some of every further one, while processes share nothing but a sum once
an iteration. So beyond FEW threads a run divides them among processes of about EACH, as far as each has images worth
the while, and memory for references, slices and sums of its own. Of starts, which share nothing at all, each process
has at least one. FEW and EACH come from kernels timed with 1 to 64
threads on few cores (benchmarks/README.md), not from a machine with many: `benchmarks/speed/scaling.py --layouts`
measures there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from halfmap.errors import InputError
from halfmap.kernels.threads import available_cores
from halfmap.refinement.memory_plan import gigabytes
from halfmap.runtime.distributed import world

FEW, EACH = 12, 8  # threads that one process has the use of; threads of each of several
LEAST_IMAGES = 1000  # of a process: with fewer its share is done before sums and references have travelled


@dataclass(frozen=True)
class Layout:
    """processes: that a run is to have on this machine, where it starts them itself. threads: of each (0: an equal part
    of the cores). why: how that was chosen, where there was a choice."""

    processes: int = 1
    threads: int = 0
    why: str = ""


class Held(Protocol):
    """What a process is to hold at its worst, and may hold, in bytes; and whether a part of that lies on disk."""

    @property
    def peak(self) -> int:
        """The most memory in bytes at any time."""

    @property
    def available(self) -> int:
        """Bytes that the process may hold in all."""

    @property
    def on_disk(self) -> bool:
        """Whether sums lie in files."""


@dataclass(frozen=True)
class Room:
    """What a process without anything on disk is to hold at its worst, and may hold, in bytes."""

    peak: int
    available: int
    on_disk: bool = False

    def checked(self, what: str, processes: int, remedy: str) -> None:
        """Raise InputError where it does not fit. what: needs the memory; processes: of the machine."""
        if self.peak > self.available:
            each = f" in each of {processes} processes" if processes > 1 else ""
            fewer = "fewer --processes, " if processes > 1 else ""
            raise InputError(f"memory: {what} needs {gigabytes(self.peak)} GB{each}, and {gigabytes(self.available)} "
                             f"GB are available; take {fewer}{remedy}, or a machine with more memory")


@dataclass(frozen=True)
class Outlook:
    """A run before its images are read: how many they are, and what each of so many processes is to hold. starts: that
    are divided in place of images, where it is starts."""

    images: int
    plan: Callable[[int], Held]
    starts: int = 0

    @property
    def most(self) -> int:
        """How many processes have work that is worth the while."""
        return self.starts or max(1, self.images // LEAST_IMAGES)


def laid_out(processes: int, threads: int, gpu: bool, outlook: Callable[[], Outlook]) -> Layout:
    """The layout of a run. processes, threads: as asked for, of the machine in all; 0 for automatic.

    In a process that torchrun or another one started, threads are those of the process, and there is nothing to choose.
    Raises InputError for a number of processes that cannot be.
    """
    if world() > 1:
        if processes:
            raise InputError(f"--processes {processes}: the processes of this run are started by torchrun; leave it "
                             "out, and see --nproc-per-node")
        return Layout(1, threads)
    if gpu:
        if processes > 1:
            raise InputError(f"--processes {processes}: divides the cores of a machine; take --device cpu, or start "
                             "one process for each GPU by torchrun (--nproc-per-node)")
        return Layout(1, threads)
    total = threads or available_cores()
    if processes > total:
        raise InputError(f"--processes {processes}: there are {total} threads, and each process needs one; give fewer "
                         "processes, or more --threads")
    if processes > 1:
        return Layout(processes, total // processes)
    return Layout(1, threads) if processes == 1 or total <= FEW else automatic(total, outlook())


def automatic(threads: int, outlook: Outlook) -> Layout:
    """The layout of so many threads in all for a run on the CPU."""
    if threads <= FEW:
        return Layout(1, threads)
    wanted = round(threads / EACH)
    worth = min(wanted, outlook.most)
    count = next((n for n in range(worth, 1, -1) if _held_in_memory(outlook.plan(n))), 1)
    work = "a start each" if outlook.starts else f"{LEAST_IMAGES} images each"
    short = "memory for their sums" if count < worth else work if worth < wanted else ""
    chosen = f"{count} process{'es' * (count > 1)} of {threads // count} threads"
    return Layout(count, threads // count, f"{chosen}; more would not have {short}" if short else chosen)


def _held_in_memory(plan: Held) -> bool:
    return plan.peak <= plan.available and not plan.on_disk
