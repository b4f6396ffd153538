"""One thread pool for all compiled kernels.

A kernel is ``@njit(nogil=True)`` and works on a range, a slab or an accumulator. It is never ``parallel=True``: Numba's
threading layers abort or deadlock beside torch and fork, and a plain pool is as fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_pool: ThreadPoolExecutor | None = None
_count = 0


def available_cores() -> int:
    """Number of cores that this process may use: those of its affinity mask, not of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int = 0) -> int:
    """Set the number of kernel threads (0: all available cores), and return it."""
    global _pool, _count
    count = count or available_cores()
    if count != _count:
        if _pool is not None:
            _pool.shutdown()
        _pool, _count = ThreadPoolExecutor(count, thread_name_prefix="halfmap-kernel"), count
    return count


def thread_count() -> int:
    """Number of kernel threads; all available cores if it was never set."""
    return _count or set_threads()


def for_ranges(work: Callable[[int, int], None], total: int, grain: int = 1) -> None:
    """Run ``work(start, stop)`` over a partition of ``range(total)``, and wait.

    There are about four parts for each thread, so that the load balances; a part has at least ``grain`` items.
    """
    threads = thread_count()
    if total == 0:
        return
    step = max(grain, -(-total // (threads * 4)))
    if threads == 1 or total <= step:
        work(0, total)
        return
    assert _pool is not None
    _awaited([_pool.submit(work, i, min(total, i + step)) for i in range(0, total, step)])


def run_all(tasks: list[Callable[[], None]]) -> None:
    """Run independent tasks on the pool, and wait for all of them."""
    thread_count()
    assert _pool is not None
    _awaited([_pool.submit(task) for task in tasks])


def _awaited(futures: list[Future[None]]) -> None:
    """Wait for all futures. After an exception (Ctrl-C is one) cancel those not begun, so that the process can end."""
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
