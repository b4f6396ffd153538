"""Reads values of iteration records and settings for pictures and pages.

A file may hold anything. What is read here is finite or absent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Array = NDArray[np.floating[Any]]


def number(record: Record, key: str) -> float | None:
    """The field as a finite float; None if it is absent, null, NaN, infinite or not a number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def plain_value(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a setting, which stands alone or as (value, unit, meaning); None if it is absent."""
    entry = settings.get(name)
    return entry[0] if isinstance(entry, tuple) else entry


def curve(record: Record, key: str) -> list[float | None]:
    """The field as a list [s], with None where a value is not finite; empty if the field is absent."""
    return clean_values(record.get(key))


def clean_values(values: Any) -> list[float | None]:
    """The numbers as finite floats or None; an empty list if `values` is not a sequence."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    named = ({"value": value} for value in values)
    return [number(record, "value") for record in named]


def seconds_by_stage(record: Record) -> dict[str, float]:
    """Wall seconds of the iteration by stage (read, search, insert, solve, ...), without the total."""
    times = record.get("seconds")
    if not isinstance(times, Mapping):
        return {}
    found = {str(name): number(times, name) for name in times if name != "total"}
    return {name: value for name, value in found.items() if value is not None}


def total_seconds(record: Record) -> float | None:
    """Wall seconds of the iteration: the recorded total, else the sum over its stages, else None."""
    times = record.get("seconds")
    total = number(times, "total") if isinstance(times, Mapping) else None
    if total is not None:
        return total
    stages = seconds_by_stage(record)
    return sum(stages.values()) if stages else None


def shell_resolution(record: Record, shell: int) -> float | None:
    """Resolution in A of a shell (cycles per box); None for shell 0, or if the record lacks box or pixel size."""
    box, pixel = number(record, "box"), number(record, "pixel_size")
    return box * pixel / shell if box and pixel and shell > 0 else None


def crossing(record: Record, values: Sequence[float | None], threshold: float) -> float | None:
    """Resolution in A where a curve [s] of the record first falls below the threshold, linear between shells.

    None where it never does, or if the record lacks box or pixel size.
    """
    previous: float | None = None
    for shell, value in enumerate(values):
        if value is None or shell == 0:
            continue
        if value < threshold:
            if previous is None:
                return shell_resolution(record, shell)
            exact = shell - (threshold - value) / (previous - value)
            box, pixel = number(record, "box"), number(record, "pixel_size")
            return box * pixel / exact if box and pixel else None
        previous = value
    return None
