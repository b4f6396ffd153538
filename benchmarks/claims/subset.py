"""Fewer particles: a STAR file with a random part of another's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.star import read_star, write_star


def subset(particles: Path, count: str, seed: int, out: Path) -> tuple[Path, int]:
    """A STAR file in `out` with `count` random particles (or `particles` itself for "all"), half sets as they were, and
    how many it holds. Raises InputError for a count that the file does not have."""
    table = read_star(particles)
    if count == "all":
        return particles, len(table)
    if not count.isdecimal() or not 1 < int(count) <= len(table):
        raise InputError(f"count {count}: {particles} has {len(table)} particles; ask for 2 to that many, or all")
    number = int(count)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(table))[:number])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"particles_{number}.star"
    write_star(path, table.select(chosen))
    return path, number
