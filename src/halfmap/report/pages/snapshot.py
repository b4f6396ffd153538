"""The contents of a refinement's page: iteration records and the arrays of the latest iteration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halfmap.particles.table import ParticleTable
from halfmap.report.record_values import Array, Record


@dataclass(frozen=True)
class Snapshot:
    """A run as it stands. Any array may be None. Its section then says that it is missing.

    records: iteration records, oldest first (one JSON object per line of RUN/iterations.jsonl);
    settings: name -> value, or name -> (value, unit, one-line meaning);
    map: the joined regularised map [z,y,x]; half1, half2: the raw half maps [z,y,x]; mask: values in [0, 1] [z,y,x];
    reference: the regularised reference of one half set [z,y,x]; theta: local cut-off of the regulariser in A [z,y,x],
    or None, and the section is left out; directions: unit view directions [b,3], the third row of each particle's
    rotation matrix; weights: of the directions [b] (None: all equal); particles: as particles.star holds them;
    finished: no iteration follows; started: when the run began; version, command: of the program; citing: what to cite
    for each regulariser, as `method: paper, doi:...; method: ...`; memory: how the run holds its data, in words.
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
    particles: ParticleTable | None = None
    symmetry: str = "C1"
    finished: bool = False
    started: str = ""
    version: str = ""
    command: str = ""
    citing: str = ""
    memory: str = ""
