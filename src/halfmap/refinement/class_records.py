"""The record of an iteration of a classification: that of its largest class, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from halfmap.expectation.mixture import undecided
from halfmap.finding import Finding
from halfmap.maps.grid import Grid
from halfmap.refinement.classes import ClassMaps, ClassStep
from halfmap.refinement.outputs import Record
from halfmap.refinement.records import Step, progressed, record
from halfmap.refinement.schedule import Progressed
from halfmap.refinement.state import PoseTable
from halfmap.validation.class_differences import SURE, class_difference
from halfmap.validation.fsc import crossing_shell, resolution

ANEW = 0.1  # of what chance would move: images that move by less are undecided ones
UNSURE = 0.6  # mean share of the best class below which classes are hardly told apart; K equal ones have 1 / K
COMPARED = 8  # of the largest classes are compared with one another
BY_CLASS = ("classes", "moved", "moved_from_first")  # entries of a record that list classes


def class_progressed(step: ClassStep) -> Progressed:
    """What the schedule needs to know. The band follows the class whose half maps agree best."""
    own, last = progressed(_largest(step)), step.plan.insert_limit
    curves = [one.halves.curves for one in step.maps if one is not None]
    agreed = max(int(crossing_shell(curve[: last + 1], 0.143) or last)
                 for each in curves for curve in (each.unmasked, each.corrected))
    count = len(step.after.class_shares)
    changed = 1.0
    if "first classes" in step.before.memory:
        before, after = step.before.poses, step.after.poses
        moved = 0.5 * (after.class_shares(count) - before.class_shares(count)).abs().sum(dim=1)
        present = after.present.double() * (before.known & after.known)
        changed = float((moved * present).sum() / present.sum().clamp_min(1e-9))
    shares = float((step.after.class_shares - step.before.class_shares).abs().max())
    return replace(own, agreed=agreed, changed=changed, shares_moved=shares)


def class_record(step: ClassStep, latest: Progressed, groups: list[str], crosses: str) -> Record:
    """The iteration as one JSON object: `records.record` of the largest class, and under ``classes`` a list of what is
    known of each; ``moved`` [from][to]: images that were in one class before and are in another now;
    ``moved_from_first``: the same since classes were first told apart; ``sure``: mean share of the best class;
    ``undecided``: share of the images that would be elsewhere if the class of each was drawn anew, by its shares."""
    poses, before = step.after.poses, step.before
    best, count = poses.class_of[:, 0].long(), len(step.after.class_shares)
    present = poses.present.double() * poses.known
    shares = poses.class_shares(count)
    sure, elsewhere = shares.amax(dim=1), undecided(shares)
    all_present = present.sum().clamp_min(1e-9)
    known: dict[str, Any] = {
        "classes": [_of_class(step, k, int(((best == k) & poses.known).sum())) for k in range(count)],
        "changed": latest.changed, "sure": float((sure * present).sum() / all_present),
        "undecided": float((elsewhere * present).sum() / all_present),
        "sharpness": step.plan.sharpness, "drawn": step.plan.draws_classes,
    }  # fmt: skip
    first = before.memory.get("first classes")
    if first is not None:
        known["moved"] = _moved(before.poses.class_of[:, 0], best, count)
        known["moved_from_first"] = _moved(first, best, count)
    return record(_largest(step), latest, groups, crosses) | known


def class_differences(step: ClassStep, pixel_size: float) -> list[Record]:
    """For every pair of the largest classes that have maps: by how many standard deviations they differ where they
    differ most, and in which share of the mask by more than SURE of them. Classes are numbered as they are written."""
    order = by_share(step.after.class_shares)[:COMPARED]
    there = [(number, step.maps[k]) for number, k in enumerate(order, start=1)]
    known = [(number, one.halves, _reached(one, step)) for number, one in there if one is not None]
    made = []
    for (a, first, one), (b, second, other) in combinations(known, 2):
        found = class_difference(first.raw, second.raw, step.after.mask, pixel_size, max(one, other))
        made.append({"first": a, "second": b, "strongest_sd": abs(found.peak), "beyond_noise": found.share})
    return made


def class_findings(step: ClassStep, latest: Record, stood_still: bool) -> list[Finding]:
    """What is to be said of the classes of an iteration. stood_still: whether images did so before it."""
    found, count = list[Finding](), len(step.maps)
    if step.plan.stage == "final" and count > 1 and not stood_still:
        found.append(_still_moving(latest))
    alike = [f"{one['first']} and {one['second']}" for one in latest.get("differences", []) if not one["beyond_noise"]]
    if alike:
        text = (f"classes {', '.join(alike)} differ nowhere by more than {SURE:g} standard deviations of their noise: "
                "one molecule divided by chance; give fewer classes")
        found.append(Finding("classes differ by noise", text, "classes"))
    empty = [str(k + 1) for k, place in enumerate(by_share(step.after.class_shares)) if step.maps[place] is None]
    if empty:
        text = (f"class {', '.join(empty)} of {count} holds hardly any image: the images ask for fewer classes, which "
                "is a result")
        found.append(Finding("empty class", text, "classes", "note"))
    if count > 1 and step.plan.stage == "final" and not alike and latest["sure"] < max(UNSURE, 1.2 / count):
        text = (f"most images fit several classes alike (mean share of the best class {latest['sure']:.2f}): classes "
                "may differ by noise only, or by less than single images show")
        found.append(Finding("classes hardly differ", text, "classes"))
    return found


def _still_moving(latest: Record) -> Finding:
    """That images still change class when --max-iterations ends a run."""
    began = "images still change class where --max-iterations ended this"
    if "moved" not in latest:
        return Finding("classes still move", f"{began}, before classes were told apart twice: give more", "classes")
    changed, chance = latest["changed"], latest["undecided"]
    moves = f"{began}: {100 * changed:.1f} % in the last iteration"
    if changed < ANEW * chance:
        text = (f"{moves}, most of them undecided ones ({100 * chance:.0f} % would change if the class of each was "
                "drawn anew, by its shares): shares may yet creep, and more iterations make them firm")
        return Finding("classes still move", text, "classes", "note")
    return Finding("classes still move", f"{moves}; give more iterations", "classes")


def by_share(shares: Tensor) -> list[int]:
    """The classes [k] in the order in which they are written: the largest first."""
    return [int(k) for k in torch.sort(shares, descending=True, stable=True).indices]


def in_order(record: Record, order: Sequence[int]) -> Record:
    """The record with its classes in this order."""
    def ordered(name: str, listed: list[Any]) -> list[Any]:
        rows = [listed[k] for k in order]
        return rows if name == "classes" else [[row[k] for k in order] for row in rows]

    return {name: ordered(name, value) if name in BY_CLASS else value for name, value in record.items()}


def _largest(step: ClassStep) -> Step:
    """The iteration as that of a refinement whose half maps are those of the largest class."""
    place = next(k for k in by_share(step.after.class_shares) if step.maps[k] is not None)
    one = step.maps[place]
    assert one is not None
    return Step(step.plan, step.before, step.after, one.halves, one.solution, step.pixel_size, step.signs, step.seconds,
                step.cpu)


def _of_class(step: ClassStep, k: int, images: int) -> Record:
    """Share, images and curves of a class."""
    known: Record = {"share": float(step.after.class_shares[k]), "images": images}
    one = step.maps[k]
    if one is None:
        return known
    curves = one.halves.curves
    return known | {
        "resolution_A": _reached(one, step), "resolution_corrected_A": _reached(one, step, curves.corrected),
        "fsc": curves.unmasked.tolist(), "fsc_corrected": curves.corrected.tolist(),
    }  # fmt: skip


def _reached(one: ClassMaps, step: ClassStep, curve: Tensor | None = None) -> float:
    """Resolution in A at FSC 0.143, of the unmasked curve unless another is given, no finer than what was inserted."""
    grid, edge = Grid(one.halves.raw[0].shape[-1], one.halves.pixel_size), step.plan.insert_limit + 0.5
    curve = one.halves.curves.unmasked if curve is None else curve
    return max(resolution(curve, grid.box, grid.pixel_size), grid.length / edge)


def _moved(before: Tensor, after: Tensor, count: int) -> list[list[int]]:
    """How many images [from][to] went where."""
    pairs = torch.bincount(before.long() * count + after.long(), minlength=count * count)
    return pairs.view(count, count).tolist()


def classes_of(poses: PoseTable, order: Sequence[int]) -> Tensor:
    """The number [b] of each particle's class as it is written, from 1."""
    number = torch.empty(len(order), dtype=torch.int64)
    number[torch.tensor(order)] = torch.arange(1, len(order) + 1)
    return number[poses.class_of[:, 0].long()]
