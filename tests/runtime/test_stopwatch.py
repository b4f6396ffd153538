"""What is done now and then takes its share of the time, and no more."""

from __future__ import annotations

import pytest

from halfmap.runtime import stopwatch


@pytest.mark.parametrize(("cost", "between", "most"), [(1.0, 4.0, 0.1), (1.0, 100.0, 0.1), (3.0, 0.5, 0.2)])
def test_what_is_done_now_and_then_takes_its_share_of_the_time_at_most(cost, between, most, monkeypatch):
    clock, done = [0.0], list[float]()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        done.append(clock[0])
        clock[0] += cost

    sometimes = stopwatch.NowAndThen(most)
    for _ in range(200):
        sometimes(work)
        clock[0] += between
    assert done[0] == 0.0, "at once the first time"
    assert (len(done) - 1) * cost <= most * clock[0]
    assert len(done) == 200 or len(done) * cost > 0.5 * most * clock[0]
    before = len(done)
    sometimes(work, certainly=True)
    assert len(done) == before + 1
