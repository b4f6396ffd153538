"""What a regulariser says of itself before its code is loaded: name, options, where its class is, memory, paper.

All regularisers declare themselves so, those of other packages too (settings/regulariser_plugs.py). This file imports
nothing heavy, and neither may the module of a declaration: help and errors are immediate.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """What a regulariser holds in memory at most, half maps and mask included.

    maps: maps of the whole box while it works on maps. inverting: maps while it inverts sums (0: it inverts none,
    unless they were joined). within, within_inverting: for a regulariser that works in the cube that references are
    kept within, arrays of that cube at the same times, beside a few maps. quarters: whether it looks at quarter sets.
    """

    maps: int
    inverting: int = 0
    within: int = 0
    within_inverting: int = 0
    quarters: bool = True


@dataclass(frozen=True)
class Declaration:
    """A regulariser as it declares itself.

    name: what a user chooses it by. options: a frozen, keyword-only dataclass of its options, by the rules of
    halfmap.options; every field begins with ``prefix``, which ends in an underscore, and has a default, a ``help`` and
    a ``group``. A Path among the options names a mask; the method gets the mask itself. method: ``module:Class``,
    loaded when the regulariser is chosen. The class takes the options without prefix as keywords, each with the same
    default, and is a `Regulariser` (protocol.py). paper: what to cite, as ``Author 2012, doi:10...``. need: its memory.
    without_quarters: why it cannot work inside RELION, which hands over one half set without its quarters; empty if it
    can, and then the method has ``alone`` (`OneHalf`, protocol.py). package: name and version of the package that
    declares it, filled in by the program; empty for those of Halfmap.
    """

    name: str
    prefix: str
    options: type
    method: str
    paper: str
    need: Need
    without_quarters: str
    package: str = ""
