"""A task in the background: one at a time, waited for however the program goes on, and its fault is not lost."""

from __future__ import annotations

import threading

import pytest

from halfmap.errors import InputError
from halfmap.runtime.background import Background


def _failing() -> None:
    raise InputError("disk full")


def test_tasks_run_beside_the_program_one_after_another():
    go, done = threading.Event(), []
    background = Background()

    def first() -> None:
        go.wait(10)
        done.append(1)

    with background.ended():
        background.start(first)
        assert done == []
        go.set()
        background.start(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


@pytest.mark.parametrize("where", ["next", "join", "end"])
def test_a_fault_is_raised_where_the_task_is_waited_for(where):
    background = Background()
    with pytest.raises(InputError, match="disk full"), background.ended():
        background.start(_failing)
        if where == "next":
            background.start(lambda: None)
        if where == "join":
            background.join()


def test_an_interrupt_waits_for_the_task_and_goes_on_as_itself():
    done, begun = [], threading.Event()
    background = Background()

    def slow() -> None:
        begun.wait(10)
        done.append(1)
        _failing()

    with pytest.raises(KeyboardInterrupt), background.ended():
        background.start(slow)
        begun.set()
        raise KeyboardInterrupt
    assert done == [1]
