"""Several processes of one job, as torchrun starts them: the only place that knows torch.distributed.

A process alone starts and imports nothing. In a job of several, tensors of the CPU travel by gloo, those of a GPU by
nccl. A thread of each process (`_watch`) tells the others that it lives. Where one is gone, the others end within two
minutes, and one of them says so in a line: collectives themselves may wait as long as it takes, as one process works
alone while maps are made.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from halfmap.errors import InputError
from halfmap.runtime.interrupts import SHOW_CURSOR

if TYPE_CHECKING:
    from torch import Tensor

BEAT = 5.0  # seconds between two signs of life
LOST = 60.0  # seconds without one after which a process counts as gone
STORE_ANSWERS = timedelta(seconds=10)  # or counts as gone
JOINING = timedelta(minutes=10)  # for all processes to find one another
PATIENCE = timedelta(days=7)  # of a collective: what is gone is noticed otherwise
SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GONE = ("another process of this job ended or cannot be reached; what it said, or the system's log (out of memory?), "
        "says why")
TOLD_TO_END = "this job was told to end (SIGTERM): another process of it failed, or its time is over"

T = TypeVar("T")


def world() -> int:
    """Processes of this job, as torchrun says; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in SET_BY_TORCHRUN) else 1


def rank() -> int:
    """Number of this process in its job, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


@contextmanager
def one_voice() -> Iterator[None]:
    """Within the block nothing is printed to stdout but by the first process, and no traces of torch's own network."""
    if world() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def speaks() -> bool:
    """Whether this process is the one to say why the job ends: the first of them that asks."""
    if world() == 1:
        return True
    joined_before = _store.cache_info().currsize > 0
    if not joined_before and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return rank() == 0  # nothing serves the store yet
    try:
        return bool(_store().add("spoken", 1) == 1)
    except RuntimeError:
        return rank() == (1 if joined_before else 0)  # whoever served the store is gone


@cache
def _store() -> Any:
    """What all processes can read and write; it is served by torchrun, or else by the first process once it joined."""
    import torch.distributed as dist

    stores: Any = dist  # which does not list what is made in C++
    served = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                             timeout=STORE_ANSWERS, wait_for_workers=False)
    return stores.PrefixStore(f"halfmap/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", served)


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, seen from one of them: its number ``rank`` of ``world``, and how many share its machine.

    Every method is called by all of them at the same point, and does nothing where there is only one. Each raises
    InputError where a process is gone.
    """

    rank: int = 0
    world: int = 1
    on_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def add_(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the sums over all, in place."""
        self._each(tensors, "all_reduce")

    def hand_out_(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the values of the first, in place."""
        self._each(tensors, "broadcast", src=0)

    def rows(self, values: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows [b, ...] of each process, counts[rank] of them, to the first; the others get none."""
        if self.world == 1:
            return [values]
        from torch.distributed import gather

        padded = values.new_zeros((max(counts), *values.shape[1:]))
        padded[: len(values)] = values
        every = [padded.new_empty(padded.shape) for _ in counts] if self.first else None
        with _reached():
            gather(padded, every, dst=0)
        return [found[:count] for found, count in zip(every or [], counts, strict=False)]

    def told(self, value: T) -> T:
        """A small value as the first process has it."""
        if self.world == 1:
            return value
        from torch import device
        from torch.distributed import broadcast_object_list

        held = [value]
        with _reached():
            broadcast_object_list(held, src=0, device=device("cpu"))
        return held[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.told(None)
        if self.world > 1:
            from torch import zeros

            self.add_([zeros(1)])

    def _each(self, tensors: Sequence[Tensor], collective: str, **where: int) -> None:
        if self.world == 1:
            return
        import torch.distributed

        with _reached():
            for tensor in tensors:
                getattr(torch.distributed, collective)(tensor, **where)


ALONE = Ranks()


@contextmanager
def joined(gpu: bool, advice: Callable[[], str]) -> Iterator[Ranks]:
    """The processes of this job, which can reach one another within the block; a process alone is that at once.

    gpu: whether each takes a GPU of its own, which becomes the current one; advice: a sentence on how to go on, for the
    line that says that the job ended. Raises InputError where processes cannot be reached, or have no GPU.
    """
    if world() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    ranks = Ranks(rank(), world(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if gpu:
        own, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= found:
            raise InputError(f"{ranks.on_machine} processes on a machine with {found} GPU{'s' * (found != 1)}: start "
                             "one for each GPU (torchrun --nproc-per-node), or take --device cpu")
        torch.cuda.set_device(own)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=JOINING)
        dist.distributed_c10d._set_pg_timeout(PATIENCE)
        store = _store()
    except RuntimeError as error:
        raise InputError(f"the {ranks.world} processes of this job cannot reach one another at "
                         f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}); "
                         "start them with torchrun, and see --rdzv-endpoint for several machines") from error
    watch = _watched(ranks, store, advice)
    try:
        yield ranks
        ranks.wait()  # a fault within the block comes past: the process ends, and its connections tell the others
    finally:
        watch.end()  # a thread that Python finds in the store when it exits aborts the process
    watch.let_go()
    dist.destroy_process_group()


@contextmanager
def _reached() -> Iterator[None]:
    """What a collective says of a process that is gone, in words."""
    try:
        yield
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        raise InputError(GONE) from error


@dataclass(frozen=True)
class _Watch:
    """The thread that watches over the job, and the signals that it hears of."""

    thread: threading.Thread
    stopped: threading.Event
    wake: int

    def end(self) -> None:
        """End the thread. A SIGTERM from now on does nothing: the process has come to its end, and to say of what."""
        self.stopped.set()
        os.write(self.wake, b"\0")
        self.thread.join(2 * STORE_ANSWERS.total_seconds())

    def let_go(self) -> None:
        """Give the signals back, once there is no job any more."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watched(ranks: Ranks, store: Any, advice: Callable[[], str]) -> _Watch:
    """Start the thread that watches over the job."""
    stopped, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)
    if threading.current_thread() is threading.main_thread():
        # The handler is called between two lines of Python, which may take long; the pipe hears of a signal at once.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=_watch, args=(ranks, store, advice, (read, stopped)), name="job", daemon=True)
    thread.start()
    return _Watch(thread, stopped, write)


def _watch(ranks: Ranks, store: Any, advice: Callable[[], str], until: tuple[int, threading.Event]) -> None:
    """Give signs of life, and end the process where those of another stay away or the job is told to end.

    The first process watches all, the others watch it.
    """
    read, stopped = until
    watched = range(1, ranks.world) if ranks.first else (0,)
    seen = dict.fromkeys(watched, (0, 0))  # signs of life, and how often in a row there was no new one
    while True:
        if select.select([read], [], [], BEAT)[0] and signal.SIGTERM in os.read(read, 64):
            _end(TOLD_TO_END, advice)
        if stopped.is_set():
            return
        try:
            store.add(f"beat {ranks.rank}", 1)
            beats = {other: store.add(f"beat {other}", 0) for other in watched}
        except RuntimeError:
            if not stopped.wait(1.0):
                _end(GONE, advice)
            return
        seen = {other: (beats[other], 0 if beats[other] != count else silent + 1)
                for other, (count, silent) in seen.items()}
        for other, (_, silent) in seen.items():
            if silent * BEAT > LOST:  # counted, not timed: the whole job may have been suspended
                _end(f"process {other} of this job gave no sign of life for {LOST:.0f} s: it, its machine or the "
                     "network is down", advice)


def _end(why: str, advice: Callable[[], str]) -> NoReturn:
    """The end of this process, whatever it waits for."""
    if speaks():
        print(f"halfmap: error: {why}. {advice()}".rstrip(), file=sys.stderr, flush=True)
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
    os._exit(2)
