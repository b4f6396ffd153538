"""Where time goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


class Stopwatch:
    """Adds the time since the last call to a named stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap under ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    def skip(self) -> None:
        """Book the time since the last lap nowhere."""
        self.last = time.perf_counter()


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of the processor."""

    wall: float = 0.0
    cpu: float = 0.0


NOTHING = Cost()


class CostMeter:
    """Measures what a step costs. before: what was spent on it already."""

    def __init__(self, before: Cost = NOTHING) -> None:
        self.wall, self.cpu = time.perf_counter() - before.wall, time.process_time() - before.cpu

    def so_far(self) -> Cost:
        """The cost until now."""
        return Cost(time.perf_counter() - self.wall, time.process_time() - self.cpu)


class NowAndThen:
    """Does something when it is asked to, but so rarely that it takes no more than a share of the time."""

    def __init__(self, share: float) -> None:
        self.share, self._cost, self._done = share, 0.0, -math.inf

    def __call__(self, work: Callable[[], object], certainly: bool = False) -> None:
        """Do it if it is the first time, if the last one is long enough ago, or ``certainly``."""
        begun = time.perf_counter()
        if certainly or self._cost <= self.share * (begun - self._done):
            work()
            self._done = time.perf_counter()
            self._cost = self._done - begun
