"""Where time goes."""

from __future__ import annotations

import time


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


class Cost:
    """What a step costs, on top of what was spent on it before: seconds by the clock and of the processor."""

    def __init__(self, before: tuple[float, float] = (0.0, 0.0)) -> None:
        self.began = (time.perf_counter() - before[0], time.process_time() - before[1])

    def so_far(self) -> tuple[float, float]:
        """The cost until now."""
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]
