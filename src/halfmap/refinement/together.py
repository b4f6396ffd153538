"""A command whose work several processes share, as its workflow sees them.

A refinement has more to share than this (shared_work.py), with the same means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.refinement.process_layout import Layout
from halfmap.refinement.shared_work import hand_back_cores, share_cores, take_cores
from halfmap.runtime.distributed import Ranks, joined, shared_out
from halfmap.runtime.signs_of_life import GONE


@dataclass(frozen=True)
class Together:
    """The processes of a command. why: how their number was chosen, where there was a choice."""

    ranks: Ranks
    why: str = ""

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.ranks.first

    @property
    def notes(self) -> list[str]:
        """How many there are, for the log."""
        ranks = self.ranks
        there = (f"{ranks.world} processes, {ranks.on_machine} on the machine of the first; threads of a process: "
                 f"{kernels.thread_count()}")
        return [*([there] if ranks.world > 1 else []), *filter(None, [self.why])]

    @contextmanager
    def others_waiting(self) -> Iterator[None]:
        """Within the block the first process has the cores of all that share its machine."""
        take_cores(self.ranks)
        try:
            yield
        finally:
            hand_back_cores(self.ranks)


@contextmanager
def together(layout: Layout, words: Sequence[str], gpu: bool, advice: Callable[[], str]) -> Iterator[Together]:
    """The processes that share a command, within the block: those of torchrun, or those of the layout, which this one
    starts with the command line ``words``. gpu: whether each has one of its own. advice: how to go on when one is gone.

    Raises InputError where they cannot reach one another.
    """
    try:
        with shared_out(layout.processes, words, advice), joined(gpu, advice) as ranks:
            share_cores(layout.threads, ranks)
            yield Together(ranks, layout.why)
    except InputError as error:
        if str(error) != GONE:
            raise
        raise InputError(f"{GONE}. {advice()}".removesuffix(". ")) from error
