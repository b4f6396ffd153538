"""The verdict on an iteration: everything found in its poses, curves, views and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from halfmap.finding import Finding
from halfmap.geometry.rotations import view_directions
from halfmap.refinement import health
from halfmap.refinement.curvature import curvature_findings
from halfmap.refinement.problem import Problem
from halfmap.refinement.records import Step, mean_gain
from halfmap.refinement.schedule import Progressed
from halfmap.refinement.state import PoseTable
from halfmap.validation.fsc import mask_verdict, tail_verdict
from halfmap.validation.view_coverage import thin_coverage

UNEVEN = 0.2  # relative difference of the gain between half sets that is worth a warning


def verdict(problem: Problem, history: Sequence[Progressed], step: Step, poor: bool) -> list[Finding]:
    """What is to be said of the latest iteration. poor: whether the images contradict the start.

    Curves are judged in the final pass only: maps of earlier ones end at the shell to which images were inserted.
    """
    schedule, grid, curves, poses = problem.schedule, problem.grid, step.halves.curves, step.after.poses
    found = health.findings(history, curves, schedule.start, schedule.shell(schedule.start), grid, poor)
    found += _uneven_halves(poses)
    if step.plan.stage != "burn-in":  # whose maps end at the first zero of many a CTF, and are coarse there
        found += step.signs.contradicted()
    if step.plan.stage in ("local", "final"):
        found += _thin_views(poses, step.halves.operators.cpu())
    if step.plan.stage != "final":
        return found
    found += mask_verdict(curves, grid.box, grid.pixel_size) + tail_verdict(curves, grid.box, grid.pixel_size)
    found += health.box_too_small(problem.source.table, problem.masking.diameter, history[-1].resolution)
    found += curvature_findings(problem.model, step.after, problem.source.table, problem.masking.diameter,
                                history[-1].resolution)
    found += health.optics_not_fitted(schedule.optics_from, step.after.optics is not None, history[-1].resolution)
    found += step.after.prior.straining if step.after.prior is not None else []
    return found + _empty_images(poses)


def _uneven_halves(poses: PoseTable) -> list[Finding]:
    gains = [mean_gain(poses, half) for half in (0, 1)]
    if min(gains) > (1 - UNEVEN) * max(gains):
        return []
    text = (f"the half sets differ: the model explains {gains[0]:.1f} nats per image of one and {gains[1]:.1f} of the "
            "other; one may have lost its poses")
    return [Finding("half sets differ", text, "half sets")]


def _thin_views(poses: PoseTable, group: Tensor) -> list[Finding]:
    seen = poses.known & (poses.present >= 0.5)
    views = view_directions(poses.rotations[seen, 0].double()).numpy()
    return thin_coverage(views, group.double().numpy()) if len(views) else []


def _empty_images(poses: PoseTable) -> list[Finding]:
    empty = int(np.count_nonzero(poses.present.numpy() < 0.5))
    if not empty:
        return []
    text = (f"{empty:,} of {len(poses):,} images match no better than noise (halfmapParticleProbability below 0.5) and "
            "hardly entered the maps; halfmap select leaves them out")
    return [Finding("images without a particle", text, "images", "note")]
