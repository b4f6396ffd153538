"""One task at a time in a thread of its own, while the program goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


class Background:
    """Runs one task after another. What a task raises is raised where the program next waits for it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._task: Future[object] | None = None

    def start(self, task: Callable[[], object]) -> None:
        """Run a task, once the last one is done."""
        self.join()
        self._task = self._pool.submit(task)

    def join(self) -> None:
        """Wait for the task."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Wait for the task at the end of the block, also where an exception leaves it, which then counts."""
        try:
            yield
            self.join()
        finally:
            self._pool.shutdown()
