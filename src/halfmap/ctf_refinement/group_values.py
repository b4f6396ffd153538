"""Values of optics groups as they are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.fit import Fitted
from halfmap.ctf_refinement.parameters import Per
from halfmap.ctf_refinement.significance import CHANCE

PICTURED = 6  # optics groups of which there are phase maps: those with most images


@dataclass(frozen=True)
class GroupValue:
    """The numbers p of one optics group, as in `Fitted`. An infinite error: its images say nothing about them."""

    before: list[float]
    change: list[float]
    error: list[float]
    gain: float
    applied: bool

    @staticmethod
    def unknown(before: list[float]) -> GroupValue:
        """Of a group to which nothing was fitted."""
        return GroupValue(before, [0.0] * len(before), [math.inf] * len(before), 0.0, False)


def fitted_values(
    name: str, components: Sequence[str], units: Sequence[str], values: Sequence[GroupValue], images: Tensor,
    note: str = "", insignificant: bool = False,
) -> Fitted:  # fmt: skip
    """The values of all optics groups. images [n]: how many each has; note: a sentence more for the verdict;
    insignificant: whether values are applied without a test."""
    applied = torch.tensor([value.applied for value in values])
    return Fitted(
        name, Per.GROUP, tuple(components), tuple(units), torch.arange(len(values)),
        torch.full((len(values),), -1, dtype=torch.int64), _table([value.before for value in values]),
        _table([value.change for value in values]), _table([value.error for value in values]),
        torch.tensor([value.gain for value in values], dtype=torch.float64), applied,
        _verdict(applied, images.cpu(), [not math.isinf(value.error[0]) for value in values], insignificant) + note,
    )  # fmt: skip


def most_seen(images: Tensor) -> set[int]:
    """The optics groups with most images, of which phase maps are shown."""
    return set(images.cpu().argsort(descending=True, stable=True)[:PICTURED].tolist())


def _table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _verdict(applied: Tensor, images: Tensor, fitted: list[bool], insignificant: bool) -> str:
    """In how many groups there was something to change."""
    if insignificant:
        return f"applied in {int(applied.sum())} of {len(applied)} optics groups, significant or not, as was asked."
    test = f"a likelihood-ratio test at {CHANCE:g} decides"
    known = torch.tensor(fitted)
    if len(applied) == 1:
        if not known[0]:
            return "not fitted: the images of the optics group say nothing about it."
        return f"{'significant and applied' if applied[0] else 'not significant, left as it was'} ({test})."
    text = f"significant and applied in {int(applied.sum())} of {len(applied)} optics groups ({test})"
    weak = known & ~applied
    if bool(weak.any()):
        few, many = int(images[weak].min()), int(images[weak].max())
        size = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        text += f"; what the others ({int(weak.sum())}, of {size} images) say is too weak, and they stay as they were"
    if not bool(known.all()):
        text += f"; {int((~known).sum())} could not be fitted"
    return text + "."
