"""Where time goes."""

from __future__ import annotations

import time
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
