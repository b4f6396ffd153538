"""What `halfmap compare` says about the runs: all numbers as plain values, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfmap.validation.fsc import GOLD_STANDARD, tail_verdict
from halfmap.validation.model_map import model_resolution
from halfmap.workflows.compare_maps import Against, Measured, sharing_frame
from halfmap.workflows.half_map_pair import HalfMaps

CURVES = ("unmasked", "masked", "randomised", "corrected")
FAR = 10.0  # degrees: two poses further apart are different views
TRUTH_THRESHOLD = 0.5  # FSC with a map without noise at which half of the power is right
BINS = 40  # of the histograms
ENDS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 90.0, 180.0)  # upper ends that a histogram may have, degrees or A
PERCENTILES = (5, 50, 95)
CAUTION = ("agreement of half maps is no proof of a better map, because whatever the half sets share raises their FSC: "
           "look at the densities, or compare with a model (halfmap model-fsc)")


@dataclass(frozen=True)
class HistogramEnds:
    """Upper ends of the histograms of pose differences: angles in degrees and shifts in A."""

    angle: float
    shift: float


def run_summary(found: Measured, own_level: float, ends: HistogramEnds) -> dict[str, Any]:
    """One run as plain JSON values. own_level: grey value of its drawn surface.

    A resolution is null where the curve never falls below the threshold.
    """
    run, pair, fit = found.run, found.pair, found.fit
    inside = _inside_mask(found)
    return {
        "name": run.name, "folder": str(run.folder), "finished": run.finished,
        "regulariser": run.setting("regulariser"), "symmetry": run.setting("symmetry"),
        "iterations": run.last("iteration"), "particles": run.last("particles"), "cpu_seconds": run.cpu_seconds,
        "crosses": run.last("crosses"),
        "resolution_A": {name: {str(t): pair.resolution(name, t) for t in (GOLD_STANDARD, 0.5)} for name in CURVES},
        "truth_resolution_A": None if found.truth is None else model_resolution(
            found.truth, pair.box, pair.pixel_size, TRUTH_THRESHOLD),
        "bfactor_A2": None if fit is None else fit.bfactor, "bfactor_error_A2": None if fit is None else fit.error,
        "local_resolution_A": _percentiles(found.local[inside]),
        "local_cutoff_A": None if found.theta is None else _percentiles(found.theta[inside]),
        "surface_level": own_level,
        "moved": found.frame.apart, "frame_deg": found.frame.angle, "frame_A": float(found.frame.shift.norm()),
        "poses": None if found.against is None else _pose_summary(found.against, ends),
        "fsc": {name: getattr(pair.curves, name).tolist() for name in CURVES},
        "fsc_truth": None if found.truth is None else found.truth.tolist(),
    }  # fmt: skip


def _percentiles(values: Tensor) -> dict[str, float]:
    found = np.percentile(values.double().numpy(), PERCENTILES).tolist()
    return dict(zip(map(str, PERCENTILES), found, strict=True))


def _inside_mask(found: Measured) -> Tensor:
    """Voxels [z,y,x] of the first run's frame at which the run's mask is above one half."""
    return found.frame.to_first(found.pair.mask, found.pair.pixel_size, 1) > 0.5


def _pose_summary(against: Against, ends: HistogramEnds) -> dict[str, Any]:
    """How a run's poses differ from the first run's: medians, shares and histograms."""
    left = against.differences
    return {
        "common": len(left.angles), "only_first": against.only_first, "only_here": against.only_here,
        "angle_median_deg": float(left.angles.median()), "angle_mean_deg": float(left.angles.mean()),
        "angle_p90_deg": float(torch.quantile(left.angles, 0.9)),
        "share_above_10_deg": left.above(FAR), "shift_median_A": float(left.shifts.median()),
        "shift_p90_A": float(torch.quantile(left.shifts, 0.9)),
        "angle_histogram": _histogram(left.angles, ends.angle), "shift_histogram": _histogram(left.shifts, ends.shift),
    }  # fmt: skip


def histogram_ends(against: Sequence[Against | None]) -> HistogramEnds:
    """Choose round ends for the histograms of all runs: at most 1 % of any run's particles lie beyond."""
    left = [one.differences for one in against if one is not None]
    return HistogramEnds(_end([one.angles for one in left]), _end([one.shifts for one in left]))


def _end(values: Sequence[Tensor]) -> float:
    wanted = max((float(torch.quantile(one, 0.99)) for one in values), default=0.0)
    return next((end for end in ENDS if end >= wanted), ENDS[-1])


def _histogram(values: Tensor, to: float) -> dict[str, Any]:
    """Count particles in equal bins from 0 to `to`, and those beyond."""
    counts = torch.histc(values, BINS, 0.0, to)
    return {"to": to, "particles": counts.int().tolist(), "beyond": int((values > to).sum())}


def verdict(runs: Sequence[dict[str, Any]], length: float) -> list[str]:
    """Say in a few sentences what differs. runs: as from `run_summary`; length: of the box in A."""
    at = [run["resolution_A"]["corrected"][str(GOLD_STANDARD)] for run in runs]
    said = f"at FSC {GOLD_STANDARD}, within one mask and corrected, the half maps reach {_ranked(runs, at)}"
    known = [value for value in at if value is not None]
    if len(known) == len(at) and length / min(known) - length / max(known) < 1:
        said += ", which is the same to a shell"
    sentences = [said, *(_pose_words(runs[0], run) for run in runs[1:] if run["poses"])]
    if runs[0]["fsc_truth"]:
        at = [run["truth_resolution_A"] for run in runs]
        sentences.append(f"against the truth, at FSC {TRUTH_THRESHOLD:g}, the maps are right to {_ranked(runs, at)}")
    return [*sentences, _caution(runs)]


def _ranked(runs: Sequence[dict[str, Any]], at: Sequence[float | None]) -> str:
    """The runs and their resolutions in words, the finest first."""
    ranked = sorted(zip(at, runs, strict=True), key=lambda pair: pair[0] or 0.0)
    return ", ".join(f"{'Nyquist' if value is None else f'{value:.2f} A'} ({run['name']})" for value, run in ranked)


def _pose_words(first: dict[str, Any], run: dict[str, Any]) -> str:
    poses = run["poses"]
    share = 100 * poses["share_above_10_deg"]
    return (f"between {first['name']} and {run['name']}, half of {poses['common']} particles turn by less than "
            f"{poses['angle_median_deg']:.2g} degrees and move by less than {poses['shift_median_A']:.2g} A; "
            f"{share:.2g} % turn by more than {FAR:g} degrees")


def _caution(runs: Sequence[dict[str, Any]]) -> str:
    shared = [set((run["crosses"] or "").split(", ")) - {""} for run in runs]
    more = [f"{run['name']}: {', '.join(sorted(extra))}" for run, mine in zip(runs, shared, strict=True)
            if (extra := mine - set.intersection(*shared))]
    return CAUTION + (f". Here they do not share the same ({'; '.join(more)})" if more else "")


def notes(found: Sequence[Measured]) -> list[dict[str, str]]:
    """What a reader must know before comparing, with the run it concerns.

    Notes name unfinished runs, runs of other particles, frames that differ, symmetries that differ and odd curves.
    """
    told = []
    for one in found:
        run, pair = one.run, one.pair
        texts = [] if run.finished else [
            f"is not finished: its maps are those of iteration {run.last('iteration') or '?'}, which end where it had "
            "arrived"]
        texts += [] if one is found[0] else _frame_notes(one, found[0].run.name)
        odd = pair.verdict() + tail_verdict(pair.curves, pair.box, pair.pixel_size)
        texts += [finding.text for finding in odd if finding.level == "warning"]
        told += [{"run": run.name, "text": text} for text in texts]
    symmetries = sorted({one.run.setting("symmetry") for one in found})
    if len(symmetries) > 1:
        text = f"the symmetries differ ({', '.join(symmetries)}): poses are compared modulo the largest"
        told.append({"run": "all", "text": text})
    return told


def _frame_notes(one: Measured, first: str) -> list[str]:
    against, texts = one.against, []
    if against is None:
        texts.append(f"no particle is known to be in {first} too: poses are not compared, and the maps were laid on "
                     "each other by a fit")
    else:
        if against.only_first or against.only_here:
            texts.append(f"{len(against.differences.angles)} particles are in both runs and compared; "
                         f"{against.only_first} are in {first} alone, {against.only_here} here alone")
        if not sharing_frame(against):
            texts.append(f"shares no frame with {first}: most particles look elsewhere; one run has gone astray, or "
                         "the hands differ")
    if one.frame.apart:
        texts.append(f"its map was turned by {one.frame.angle:.2f} degrees and moved by "
                     f"{float(one.frame.shift.norm()):.2f} A to lie on {first}")
    return texts


def mask_text(pair: HalfMaps, name: str) -> str:
    """Describe the common mask: where it comes from and its share of the box."""
    return f"{name}, {100 * pair.mask_share:.1f} % of the box"
