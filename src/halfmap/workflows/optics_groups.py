"""What is to be said of optics groups that ``halfmap convert --group-by`` divided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.particles.optics_division import Division, DivisionRule

FEW = 100  # images of a group; a beam tilt, and a noise spectrum, of fewer are guesses
MOST_NAMED = 8
MOST_PLACES = 4000  # positions that are drawn; of more, every n-th


def told_groups(division: Division, rule: DivisionRule, report: Callable[..., Path] | None) -> list[str]:
    """Write the page of the groups, if there is to be one, and return what is to be said of them, in sentences."""
    groups, notes = _groups(division), _notes(division)
    pages = []
    if report is not None:
        page = report(rule=rule.said, old=len(set(division.parent.tolist())), groups=groups, places=_places(division),
                      labels=division.labels, gap=division.gap, notes=notes)
        pages.append(f"page: {page}")
    sizes = [group["particles"] for group in groups]
    apart = "" if division.gap is None else (f"; positions fall apart clearly: the smallest distance between groups is "
                                             f"{division.gap:.3g} times the largest gap within one")
    first = f"{groups[0]['name']} to {groups[-1]['name']}"
    return [f"divided by {rule.said}: {len(groups)} optics groups ({first}) of {min(sizes):,} to {max(sizes):,} images"
            f"{apart}", *(text for _, text in notes), *pages]


def _groups(division: Division) -> list[dict[str, Any]]:
    """For every new group its name, old name, number of images and micrographs, and the mean of its positions."""
    table = division.table
    found = []
    for number, group in enumerate(table.optics):
        members = table.optics_index == number
        centre = None if division.places is None else division.places[members].mean(axis=0).tolist()
        found.append({
            "name": group.name, "number": group.number, "particles": int(members.sum()), "centre": centre,
            "micrographs": None if table.micrographs is None else len(np.unique(table.micrograph[members])),
        })
    return found


def _places(division: Division) -> list[list[float]]:
    """Different positions with the number of their part: [first, second or 0, part]."""
    if division.places is None:
        return []
    both = division.places if division.places.shape[1] == 2 else np.pad(division.places, ((0, 0), (0, 1)))
    shots = np.unique(np.column_stack([both, division.key]), axis=0)
    return shots[:: -(-len(shots) // MOST_PLACES)].tolist()


def _notes(division: Division) -> list[tuple[str, str]]:
    """What to look at: the part of the results, and a sentence."""
    table, notes = division.table, []
    sizes = np.bincount(table.optics_index, minlength=len(table.optics))
    few = [f"{table.optics[i].name} ({sizes[i]})" for i in np.argsort(sizes, kind="stable") if sizes[i] < FEW]
    if few:
        more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
        notes.append(("images", f"{len(few)} group{'s have' if len(few) > 1 else ' has'} fewer than {FEW} images, too "
                                f"few for a beam tilt of their own: {', '.join(few[:MOST_NAMED])}{more}"))
    if table.micrographs is not None:
        single = [group.name for i, group in enumerate(table.optics)
                  if len(np.unique(table.micrograph[table.optics_index == i])) == 1]
        if single:
            more = f" and {len(single) - MOST_NAMED} more" if len(single) > MOST_NAMED else ""
            notes.append(("micrographs", f"{len(single)} group{'s are' if len(single) > 1 else ' is'} one micrograph: "
                                         f"{', '.join(single[:MOST_NAMED])}{more}"))
    return notes
