"""Several processes of one job: the only place that knows torch.distributed.

They are started by torchrun, or on one machine by the first of them (`shared_out`), which tells the others what
torchrun would. A process that runs alone starts and imports nothing. In a job of several, tensors of the CPU travel by
gloo, those of a GPU by nccl. A thread of each process (signs_of_life.py) tells the others that it lives. Where one is
gone, the others end within two minutes, and one of them says so in one line. Collectives themselves may wait as long as
it takes, because one process works alone while maps are made.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from halfmap.errors import InputError
from halfmap.runtime.company import Company
from halfmap.runtime.interrupts import SHOW_CURSOR
from halfmap.runtime.signs_of_life import GONE, LOST, STORE_ANSWERS, Place, watched

if TYPE_CHECKING:
    from torch import Tensor

ASKED = 5.0  # seconds that others have to ask whether a mistake was told, before the store goes with its process
JOINING = timedelta(minutes=10)  # the time that all processes have to find one another
PATIENCE = timedelta(days=7)  # timeout of a collective: the watch notices processes that are gone much earlier
INTERRUPTED = 130  # exit status after Ctrl-C
SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")

_voice: bool | None = None  # whether this process speaks for its job, once it has asked
_company = Company()  # the processes of this job that this one started


def world() -> int:
    """Number of processes in this job, from the environment; 1 outside of one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in SET_BY_TORCHRUN) else 1


def rank() -> int:
    """Number of this process in its job, counted from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


@contextmanager
def one_voice() -> Iterator[None]:
    """Within the block only the first process prints to stdout, and torch prints no traces of its own network."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def speaks() -> bool:
    """Whether this process is the one that says why the job ends. The first process that asks is, and it stays so."""
    global _voice
    if _voice is None and world() > 1:
        _voice = _asked_first()
    return _voice is not False


def _asked_first() -> bool:
    joined_before = _store.cache_info().currsize > 0
    if not joined_before and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return rank() == 0  # no process serves the store yet
    try:
        return bool(_store().add("spoken", 1) == 1)
    except RuntimeError:
        return rank() == (1 if joined_before else 0)  # the process that served the store is gone


def leave(status: int) -> None:
    """End this process with an exit status, where it shares a job that did not come to its end; else do nothing.

    torch's own threads may still hold tensors of a collective that failed. When they let go of them they ask for
    Python, and while Python takes itself down that aborts the process ("terminate called"). So it is not taken down.
    """
    if world() == 1 and _voice is None:
        return
    told_first = status == 2 and bool(_voice) and rank() == 0 and _store.cache_info().currsize > 0
    until = time.monotonic() + ASKED * told_first
    while time.monotonic() < until and _store().add("spoken", 0) < world():
        time.sleep(0.02)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@cache
def _store() -> Any:
    """A store that all processes read and write. torchrun serves it, or else the first process once it has joined."""
    import torch.distributed as dist

    stores: Any = dist  # torch declares no types for its stores, which are written in C++
    served = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                             timeout=STORE_ANSWERS, wait_for_workers=False)
    return stores.PrefixStore(f"halfmap/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", served)


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, seen from one of them.

    rank: number of this process; world: number of processes; on_machine: how many of them share its machine. All
    processes call every method at the same point. A method does nothing where there is only one process, and raises
    InputError where a process is gone.
    """

    rank: int = 0
    world: int = 1
    on_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which decides and writes."""
        return self.rank == 0

    def add_(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors of every process by their sums over all processes."""
        self._each(tensors, "all_reduce")

    def hand_out_(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors of every process by those of the first."""
        self._each(tensors, "broadcast", src=0)

    def rows(self, values: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows [b, ...] of each process, counts[rank] of them, for the first process; the others get none."""
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

    def each_once(self, count: int, what: str) -> Iterator[int]:
        """The numbers below ``count``, each of them for one process only: the next one goes to whoever asks first.

        Not for all processes at the same point. what: a name that nothing else in the job has.
        """
        if self.world == 1:
            yield from range(count)
            return
        while (number := _next(what)) < count:
            yield number

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.told(None)
        if self.world > 1:
            from torch import zeros

            self.add_([zeros(1)])

    def _each(self, tensors: Sequence[Tensor], collective: str, **where: int) -> None:
        """Apply a collective of torch.distributed to each tensor."""
        if self.world == 1:
            return
        import torch.distributed

        with _reached():
            for tensor in tensors:
                getattr(torch.distributed, collective)(tensor, **where)


ALONE = Ranks()


@contextmanager
def shared_out(processes: int, words: Sequence[str], advice: Callable[[], str]) -> Iterator[None]:
    """Within the block this process is the first of so many on its machine. It starts the others, with the command line
    ``words`` of halfmap, and serves the store by which they find one another.

    None of them is left after the block. One process needs no others, and nothing is done. advice: as in `joined`.
    """
    global _voice
    if processes == 1:
        yield
        return
    import torch.distributed as dist

    stores: Any = dist
    served = stores.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": 0, "LOCAL_RANK": 0,
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": served.port,
           "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    told = {name: str(value) for name, value in job.items()}
    told |= {"GLOO_SOCKET_IFNAME": name for _, name in socket.if_nameindex() if name in ("lo", "lo0")}  # noqa: B035
    before, _voice = {name: os.environ.get(name) for name in told}, None
    os.environ.update(told)
    try:
        for number in map(str, range(1, processes)):
            _company.start(words, os.environ | {"RANK": number, "LOCAL_RANK": number},
                           lambda status: _end(GONE, advice, INTERRUPTED if status == INTERRUPTED else 2))
        yield
        _company.end(LOST)
    except BaseException:
        speaks()  # before the others are told to end: what they would say of that is not why
        raise
    finally:
        _company.end()
        _store.cache_clear()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def joined(gpu: bool, advice: Callable[[], str]) -> Iterator[Ranks]:
    """The processes of this job, connected within the block; one process alone needs no connection.

    gpu: whether each process takes a GPU of its own, which becomes the current one. advice: gives a sentence on how to
    go on, for the line that says that the job ended. Raises InputError where processes cannot be reached, or have no
    GPU.
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
    watch = watched(Place(ranks.rank, ranks.world), store, partial(_end, advice=advice))
    try:
        yield ranks
        ranks.wait()  # not reached after an error in the block: the process ends, which breaks its connections
    finally:
        watch.end()  # a thread that still uses the store when Python exits aborts the process
    watch.let_go()
    dist.destroy_process_group()


def _next(what: str) -> int:
    """The next number, from 0, of a count that all processes of the job share."""
    with _reached():
        return int(_store().add(f"count {what}", 1)) - 1


def disband() -> None:
    """Leave a job that ended with an error, in a program that goes on. One that ended well has been left already."""
    import torch.distributed as dist

    global _voice
    _voice = None

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _reached() -> Iterator[None]:
    """Turn the error of a collective whose other process is gone into an InputError."""
    try:
        yield
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        raise InputError(GONE) from error


def _end(why: str, advice: Callable[[], str], status: int = 2) -> NoReturn:
    """End this process, whatever it waits for, and say why unless another process does."""
    if speaks():
        print(f"halfmap: error: {why}. {advice()}".rstrip(), file=sys.stderr, flush=True)
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
    _company.end()
    os._exit(status)
