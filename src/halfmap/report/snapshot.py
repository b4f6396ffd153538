"""What the report is drawn from: iteration records and the arrays of the latest iteration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Snapshot:
    """A run as it stands. Every array may be None: its section then says that it is missing.

    records: iteration records, oldest first (one JSON object per line of RUN/iterations.jsonl).
    settings: name -> value, or name -> (value, unit, one-line meaning).
    map: the joined regularised map [z,y,x]; half1, half2: raw half maps; reference: the regularised
    reference of one half; mask: values in [0, 1]; theta: local cut-off of the regulariser in A [z,y,x], whose section
    is left out where there is none. directions: unit view directions [b,3], the third row of
    each particle's rotation matrix; weights [b], one per direction (all equal when None). citing: what to cite for each
    regulariser, `method: paper, doi:...; method: ...`. memory: how the run is to hold its data, in words.
    """

    records: Sequence[Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    map: Array | None = None
    half1: Array | None = None
    half2: Array | None = None
    mask: Array | None = None
    reference: Array | None = None
    theta: Array | None = None
    directions: Array | None = None
    weights: Array | None = None
    symmetry: str = "C1"
    finished: bool = False
    started: str = ""
    version: str = ""
    command: str = ""
    citing: str = ""
    memory: str = ""


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
