"""Signs that a refinement is not what it seems: a start that contradicts the images, poses that were lost.

A high half-map FSC at low resolution and a confident posterior do not show that poses are right: from a wrong start
both half sets can fall into the same wrong answer. What shows it: half maps that disagree below the resolution of their
common start, a likelihood that keeps rising long after a good start would have settled, an FSC with a long weak tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from halfmap.finding import Finding, Level
from halfmap.fourier.transform import fft_size
from halfmap.imaging.delocalisation import delocalisation
from halfmap.imaging.optics import OpticsGroup, names_of
from halfmap.maps.grid import Grid
from halfmap.particles.table import ParticleTable
from halfmap.refinement.schedule import Progressed
from halfmap.validation.fsc import FscCurves, resolution

DISAGREEING = 0.5  # FSC of the half maps at the resolution of their common start
LONG_TAIL = 1.8  # ratio of the resolutions at FSC 0.5 and 0.143
STUCK_AFTER = 5  # iterations


def half_sets_disagree(curves: FscCurves, start_shell: int) -> bool:
    """Whether the half maps differ at resolutions that their common starting map had already."""
    lowest = max(2, start_shell // 2)
    return float(curves.unmasked[lowest : start_shell + 1].min()) < DISAGREEING


def findings(
    history: Sequence[Progressed],
    curves: FscCurves,
    start: float,
    start_shell: int,
    grid: Grid,
    poor_start: bool = False,
) -> list[Finding]:
    """The signs of trouble in the latest iteration.

    start, start_shell: resolution of the starting map, in angstrom and as a shell; grid: of the half maps; poor_start:
    whether the images contradict the start.
    """
    found = []
    climbed = [h.gain for h in history if h.stage == "burn-in"]
    settled = len(climbed) < len(history)
    # Given poses may start from a finer map than the images support; only a search from it must keep what it shows.
    searched = history[0].stage == "burn-in"
    if settled and searched and half_sets_disagree(curves, start_shell):
        found.append(
            Finding(
                "half maps disagree",
                f"the half maps disagree (FSC below {DISAGREEING}) at resolutions coarser than {start:g} A, which they "
                "started with: most poses are probably wrong. Start from a map that shows everything the images show, "
                "detergent or lipid included (an ab initio map of these particles)",
                "poses",
            )
        )
    if poor_start:
        surprised = max([h.surprised for h in history if h.stage == "burn-in"][1:], default=0.0)
        found.append(
            Finding(
                "start contradicted",
                f"the images contradict the starting map ({100 * surprised:.0f} % of the particles changed "
                "their orientation for sure after the first iteration): is a belt or domain missing from it, or is it "
                f"another particle? It is now improved with all images at {start:g} A, so the half sets share what is "
                "coarser than that; check the result",
                "starting map",
            )
        )
    last = history[-1]
    if len(history) >= STUCK_AFTER and last.resolution > 0.9 * start:
        found.append(
            Finding(
                "no better than the start",
                f"after {len(history)} iterations the half maps agree to {last.resolution:.1f} A only, no better than "
                f"the {start:g} A of the start: the poses are not being found",
                "poses",
            )
        )
    # Within the particle's sphere, because solvent noise alone stretches the unmasked curve.
    at_half, at_end = (
        resolution(curves.spherical, grid.box, grid.pixel_size, threshold=t) for t in (0.5, 0.143)
    )
    if settled and last.stage in ("local", "final") and at_half > LONG_TAIL * at_end:
        found.append(
            Finding(
                "long tail of the FSC",
                f"the FSC falls to 0.5 at {at_half:.1f} A but to 0.143 only at {at_end:.1f} A: such a long tail "
                "means that many poses are wrong, or that most of the density is disordered",
                "FSC",
            )
        )
    return found


def box_too_small(table: ParticleTable, diameter: float, resolution: float) -> list[Finding]:
    """A finding for each kind of optics whose boxes do not hold the signal of the resolution (A) that was reached.

    A particle of this diameter (A) at median defocus wants a box of the diameter and twice the distance by which the
    CTF moves that signal. Most boxes are smaller, and the likelihood knows what they leave: this is a warning only
    where signal is moved by more than half a box, so that less than half of it is left.
    """
    found, kinds = [], dict[OpticsGroup, list[int]]()
    for number in np.unique(table.optics_index).tolist():
        kinds.setdefault(table.optics[number].alike, []).append(number)
    for optics, numbers in kinds.items():
        members = np.flatnonzero(np.isin(table.optics_index, numbers))
        moved = float(delocalisation(optics, table.defocus[torch.from_numpy(members)], 1 / resolution).median())
        wanted = fft_size((diameter + 2 * moved) / optics.pixel_size)
        if wanted > optics.box:
            names = "" if len(kinds) == 1 else names_of([table.optics[number] for number in numbers])
            text = (f"{names and f'optics group {names}: '}at {resolution:.1f} A the defocus moves signal {moved:.0f} "
                    f"A away from the particle (median), and boxes of {optics.box} px cut off a part of it, which is "
                    f"lost; boxes of {wanted} px would hold it")
            level: Level = "warning" if moved > 0.5 * optics.box_length else "note"
            found.append(Finding(f"box too small{names and f' ({names})'}", text, "box", level))
    return found


def optics_not_fitted(limit: float | None, fitted: bool, resolution: float) -> list[Finding]:
    """A finding where a refinement that was to fit the optics never did. limit: resolution in A from which on it would
    have (None: never); resolution: that was reached."""
    if limit is None or fitted:
        return []
    why = (f"half maps agree to {resolution:.1f} A, and they would be fitted from {limit:g} A on (--ctf-refine-from)"
           if resolution > limit else "iterations ended before poses stood still at a resolution that allows it")
    return [Finding("optics not fitted", f"the optics stay as they were given: {why}; halfmap ctf-refine fits them to "
                    "the finished run", "optics")]
