"""Images cross to a device while the batch before them is worked on, and memory is kept until they have crossed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.particles import crossing
from halfmap.particles.read_ahead import StoredImages

CPU = torch.device("cpu")


def stored(number: int, kind: type[np.number[Any]] = np.float16) -> StoredImages:
    return StoredImages(np.arange(3) + number, np.full((3, 4, 4), number, kind))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.float16, np.float32])
def test_images_arrive_as_they_are_stored_and_in_order(kind):
    given = [stored(number, kind) for number in range(4)]
    for one, arrived in zip(given, crossing.across(given, CPU), strict=True):
        assert (arrived.rows == one.rows).all() and (arrived.images.numpy() == one.images).all()
        assert arrived.images.numpy().dtype == kind


def test_a_batch_crosses_before_the_one_before_it_is_handed_out_and_its_memory_is_kept_until_it_is_copied(monkeypatch):
    told: list[str] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            told.append(f"kept until {self.number} is copied")

    class Stream:
        count = 0

        def __init__(self, device: torch.device | None = None) -> None: ...

        def record_event(self) -> Event:
            told.append(f"{self.count} crosses")
            Stream.count += 1
            return Event(Stream.count - 1)

        def wait_event(self, event: Event) -> None:
            told.append(f"work waits for {event.number}")

    monkeypatch.setattr(crossing, "is_real_gpu", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    for arrived in crossing.across((stored(number) for number in range(3)), CPU):
        told.append(f"{int(arrived.images[0, 0, 0])} is worked on")
    assert told == [
        "0 crosses", "1 crosses", "work waits for 0", "0 is worked on", "kept until 0 is copied",
        "2 crosses", "work waits for 1", "1 is worked on", "kept until 1 is copied",
        "work waits for 2", "2 is worked on", "kept until 2 is copied",
    ]  # fmt: skip
    assert list(crossing.across(iter(()), CPU)) == []
