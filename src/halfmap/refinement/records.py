"""The record of an iteration: in a few figures for the schedule, in full for iterations.jsonl and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.geometry.rotations import angular_distance
from halfmap.maps.grid import Grid
from halfmap.refinement.ctf_signs import SignSums
from halfmap.refinement.outputs import Record
from halfmap.refinement.schedule import Plan, Progressed
from halfmap.refinement.state import PoseTable, State
from halfmap.regularisation.protocol import HalfSets, Solution
from halfmap.validation.fsc import GOLD_STANDARD, crossing_shell, resolution

WEIGHTY = 0.02  # posterior weight from which a mode counts as known
FAR = 10.0  # degrees; a particle that moves less has not jumped, however fine the grid

# Measured on all images together, so known to both half sets whatever the regulariser does.
ALWAYS_CROSSES = "noise spectra, grey scale, shift spread, share of images with a particle"
PROBABILITY_BINS = 20  # of the histogram of probabilities that there is a particle


@dataclass(frozen=True)
class Step:
    """One iteration as it ran: its plan, the states before and after it, half sets and solution, and what it cost.

    pixel_size [b]: of each particle's image, in angstrom; signs: whether images have their CTF's sign; seconds: wall
    time by stage; cpu: seconds of processor time.
    """

    plan: Plan
    before: State
    after: State
    halves: HalfSets
    solution: Solution
    pixel_size: Tensor
    signs: SignSums
    seconds: dict[str, float]
    cpu: float

    @property
    def grid(self) -> Grid:
        """The grid of the maps."""
        return Grid(self.halves.raw[0].shape[-1], self.halves.pixel_size)


def progressed(step: Step) -> Progressed:
    """What the schedule needs to know."""
    curves, poses = step.halves.curves, step.after.poses
    last = step.plan.insert_limit  # nothing was back-projected beyond
    agreed = max(int(crossing_shell(curve[: last + 1], 0.143) or last) for curve in (curves.unmasked, curves.corrected))
    change = _changes(step)
    far = max(2.0 * math.degrees(step.plan.sampling.grid_step), FAR)
    judged, found = _judged(step), _judged(step, moved=False)
    jumped = (_from_nearest_mode(step) > far)[judged]
    sure = poses.weight[judged, 0] > 0.5
    everywhere = 1 / step.plan.looked_at  # those that were looked for everywhere stand for the others
    return Progressed(
        step.plan.stage, step.plan.sampling.limit, agreed, _resolution(step, curves.unmasked),
        mean_gain(poses), float(jumped.double().mean() * everywhere), float(change.angle[judged].median()),
        float(poses.angle_sd[found].median()), float((jumped & sure).double().mean() * everywhere), step.plan.subset,
        optics=step.plan.optics is not None,
    )  # fmt: skip


def record(step: Step, latest: Progressed, groups: list[str], crosses: str) -> Record:
    """The iteration as one JSON object. groups: names of the optics groups; crosses: see `what_crosses`.

    ``gain``, ``gain_halves``: mean log-likelihood of the images above a model without a particle, in nats, an image
    counting with the probability that it holds one. Noise gains little and would hide what particles gain.
    """
    box, pixel_size = step.grid.box, step.grid.pixel_size
    curves, state = step.halves.curves, step.after
    poses = state.poses
    present = poses.present[poses.known]
    change, judged, found = _changes(step), _judged(step), _judged(step, moved=False)
    known = bool(step.before.poses.known.any())
    return {
        "iteration": state.iteration, "search": step.plan.stage,
        "band_A": box * pixel_size / step.plan.sampling.limit,
        "inserted_A": box * pixel_size / step.plan.insert_limit,
        "resolution_A": _resolution(step, curves.unmasked),
        "resolution_05_A": _resolution(step, curves.unmasked, 0.5),
        "resolution_corrected_A": _resolution(step, curves.corrected),
        "fsc": curves.unmasked.tolist(), "fsc_spherical": curves.spherical.tolist(),
        "fsc_masked": curves.masked.tolist(), "fsc_randomised": curves.randomised.tolist(),
        "fsc_corrected": curves.corrected.tolist(),
        "searched_around": _searched_around(step),
        "angle_change_deg": float(change.angle[judged].median()) if known else None,
        "shift_change_A": float(change.shift[judged].median()) if known else None,
        "surprised": latest.surprised if known else None, "jumped": latest.jumped if known else None,
        "max_posterior": float(poses.weight[found, 0].mean()),
        "precision_deg": float(poses.angle_sd[found].median()),
        "particle_share": state.share, "no_particle": int((present < 0.5).sum()),
        "particle_probability": torch.histc(present, PROBABILITY_BINS, 0.0, 1.0).long().tolist(),
        "shift_sigma_A": state.shift_sigma,
        "gain": mean_gain(poses), "gain_halves": [mean_gain(poses, h) for h in (0, 1)],
        "scale": float(state.scale.std() / state.scale.mean()) if len(state.scale) > 1 else 0.0,
        "contrast_spread": state.contrast_spread,
        "sigma2": [s.tolist() for s in state.sigma2], "sigma2_name": groups,
        "seconds": step.seconds, "cpu_seconds": step.cpu,
        "particles": len(poses), "images_used": len(present), "box": box, "pixel_size": pixel_size,
        "crosses": crosses,
    } | _prior(step.before) | _optics(step)  # fmt: skip


def _searched_around(step: Step) -> float:
    """Share of the images used whose poses a global search looked for around those known before."""
    return (1 - step.plan.looked_at) * float(step.before.poses.known[step.after.poses.known].double().mean())


def _optics(step: Step) -> Record:
    """What was fitted to the optics before the iteration."""
    if step.plan.optics is None or step.before.optics is None:
        return {}
    return {"optics": step.before.optics.found}


def _prior(state: State) -> Record:
    """The widths that poses were held to about those of the particle file, where they were."""
    if state.prior is None:
        return {}
    return {"prior_rotation_deg": state.prior.turn, "prior_shift_A": state.prior.shift}


def what_crosses(
    regulariser: str, start: float, poor: bool, joined: float | None, held: bool = False, optics: Sequence[str] = ()
) -> str:
    """Everything that the half sets have in common, as a list in words.

    regulariser: what the method itself carries across. start: resolution of the starting map, in angstrom. poor:
    whether that map was improved with all images. joined: resolution up to which half maps are joined in every
    iteration. held: whether widths of a prior about the given poses are estimated. optics: what is fitted to them.
    """
    parts = [f"starting map to {start:g} A" + (" (improved with all images)" if poor else "")]
    parts += [regulariser, ALWAYS_CROSSES]
    if held:
        parts.append("how far poses may go from those given")
    parts += [f"{PARAMETERS[name].meaning} of each optics group" for name in optics
              if PARAMETERS[name].per is Per.GROUP]
    if optics:
        parts.append("how strong the particle is in images and how much of their own noise they find in their maps, by "
                     "shell")
    if joined:
        parts.append(f"all that is coarser than {joined:g} A (joined)")
    return ", ".join(parts)


def _resolution(step: Step, curve: Tensor, threshold: float = GOLD_STANDARD) -> float:
    """Resolution in A where the curve falls below the threshold, no finer than what was inserted.

    Beyond the outer edge of the last shell the maps hold nothing, and the FSC of nothing says nothing.
    """
    grid, edge = step.grid, step.plan.insert_limit + 0.5
    return max(resolution(curve, grid.box, grid.pixel_size, threshold), grid.length / edge)


def mean_gain(poses: PoseTable, half: int | None = None) -> float:
    """Mean gain of all images with a pose, or of those of a half set, each weighed by its probability of a particle.

    The plain mean where none of them holds one.
    """
    members = poses.known if half is None else poses.known & (poses.half == half)
    gain, weight = poses.gain[members].double(), poses.present[members].double()
    total = weight.sum()
    return float((gain * weight).sum() / total) if total > 0 else float(gain.mean())


def _judged(step: Step, moved: bool = True) -> Tensor:
    """The particles [b] that statistics of poses are about: those in images that probably hold one, or else all.

    Poses of images without a particle move at random, whatever the others do. moved: for how far they moved, of which
    those that had no pose before say nothing, as long as others had one.
    """
    before, after = step.before.poses, step.after.poses
    used = before.known & after.known if moved and bool(before.known.any()) else after.known
    judged = used & (after.present >= 0.5)
    return judged if bool(judged.any()) else used


def _from_nearest_mode(step: Step) -> Tensor:
    """Angle in degrees [b] from each new best pose to the nearest mode known before; 180 where nothing was known.

    A particle that wavers between two equally likely poses has not jumped.
    """
    before, now = step.before.poses, step.after.poses.rotations[:, 0].double()
    operators = step.halves.operators.cpu()
    angles = [
        torch.where(weight > WEIGHTY, angular_distance(mode.double(), now, operators), 180.0)
        for mode, weight in zip(before.rotations.unbind(1), before.weight.unbind(1), strict=True)
    ]
    return torch.stack(angles).amin(dim=0)


@dataclass(frozen=True)
class _Changes:
    """How far each particle moved. angle [b]: degrees modulo the symmetry, 180 where its pose was unknown; shift [b]:
    angstrom. Where symmetry is relaxed, it is modulo that: a particle that wavers between mates has not moved."""

    angle: Tensor
    shift: Tensor


def _changes(step: Step) -> _Changes:
    before, after = step.before.poses, step.after.poses
    alike = (step.plan.sampling.mates[:, None] @ step.halves.operators.cpu()).flatten(0, 1)
    angle = angular_distance(before.rotations[:, 0].double(), after.rotations[:, 0].double(), alike)
    angle = torch.where(before.known, angle, 180.0)
    shift = (after.shifts[:, 0] - before.shifts[:, 0]).norm(dim=1) * step.pixel_size
    return _Changes(angle, shift)
