"""Values of iteration records and settings as pictures and pages read them: finite or absent, whatever a file holds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Array = NDArray[np.floating[Any]]


def number(record: Record, key: str) -> float | None:
    """The field as a finite float; None where it is absent, null, NaN, infinite or not a number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def plain_value(settings: Mapping[str, Any], name: str) -> Any:
    """A setting's value, whether it stands alone or as (value, unit, meaning); None where it is absent."""
    entry = settings.get(name)
    return entry[0] if isinstance(entry, tuple) else entry


def curve(record: Record, key: str) -> list[float | None]:
    """The field as a list with one value per shell, None where not finite; empty where absent."""
    return clean_values(record.get(key))


def clean_values(values: Any) -> list[float | None]:
    """Numbers as finite floats or None; an empty list for anything that is not a sequence."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    named = ({"value": value} for value in values)
    return [number(record, "value") for record in named]


def seconds_by_stage(record: Record) -> dict[str, float]:
    """Wall seconds of the record by stage (read, search, insert, solve, ...), without the total."""
    times = record.get("seconds")
    if not isinstance(times, Mapping):
        return {}
    found = {str(name): number(times, name) for name in times if name != "total"}
    return {name: value for name, value in found.items() if value is not None}


def total_seconds(record: Record) -> float | None:
    """Wall seconds of one iteration: the recorded total, else the sum over stages, else None."""
    times = record.get("seconds")
    total = number(times, "total") if isinstance(times, Mapping) else None
    if total is not None:
        return total
    stages = seconds_by_stage(record)
    return sum(stages.values()) if stages else None
