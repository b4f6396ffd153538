"""How often a map is found from images alone, and whether agreement between starts tells it.

python benchmarks/claims/starts.py particles.star --truth truth.star --diameter 170 [--symmetry C4]
    [--truth-symmetry C4] [--images 800] [--starts 10] [--noise 0.3] [--resolution A] [--result FILE.json] --name NAME

Every start of one `halfmap start` counts as a trial. A start has succeeded if the poses of more than half of the images
that hold a particle (of what symmetry lets be found) are within 20 degrees of the truth, up to one rotation and the
hand. Printed for each: evidence, share of right poses, share of the images of noise that it takes for particles and of
particles that it takes for noise, and what it has in common with the best one. --noise: so many of the images are
replaced by white noise under the same mask. Results are added to benchmarks/results/starts.json under NAME.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from evidence import RESULTS, circumstances

from halfmap.geometry.symmetry import symmetry_group
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.star import read_star
from halfmap.refinement.imaging_model import MASK_EDGE
from halfmap.refinement.soft_em import ImagePoses, SoftTask, WhitenedImages
from halfmap.refinement.starting_agreement import HALF_TURN, NEAR, SURE
from halfmap.refinement.starting_schedule import finest
from halfmap.refinement.starts import finished, operators_in_frame, ranked, scored_groups, start_from_nothing
from halfmap.refinement.together import Together
from halfmap.runtime.distributed import ALONE
from halfmap.settings.start import StartSettings
from halfmap.validation.poses import common_frame
from halfmap.workflows import start as workflow


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Starting maps from nothing against the truth.")
    parser.add_argument("particles", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--symmetry", help="imposed")
    parser.add_argument("--truth-symmetry", default="C1", help="modulo which poses are compared")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--resolution", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "starts.json")
    return parser.parse_args()


@dataclass(frozen=True)
class Mixed:
    """A task of which images empty [b] are noise."""

    task: SoftTask
    empty: torch.Tensor


def with_noise(task: SoftTask, share: float, seed: int) -> Mixed:
    """The task with a share of its images replaced by white noise."""
    generator = torch.Generator().manual_seed(seed)
    empty = torch.zeros(sum(len(held) for half in task.halves for held in half), dtype=torch.bool)

    def mixed(held: WhitenedImages) -> WhitenedImages:
        noise = torch.rand(len(held), generator=generator) < share
        empty[held.index[noise]] = True
        optics = held.geometry.optics
        radius = min(task.diameter / (2 * optics.pixel_size), optics.box / 2 - 1.0)
        white = torch.randn(len(held), optics.box, optics.box, generator=generator) / optics.box
        values = held.geometry.band.transform(white * soft_circle(optics.box, radius, MASK_EDGE))
        return replace(held, y=torch.where(noise[:, None], values, held.y))

    halves = tuple([mixed(held) for held in half] for half in task.halves) if share else task.halves
    return Mixed(replace(task, halves=halves), empty)


def right(poses: ImagePoses, truth: torch.Tensor, empty: torch.Tensor, group: torch.Tensor) -> float:
    """Share of the poses of images that hold a particle within 20 degrees of the truth [b, 3, 3], of the better hand.
    An image that is taken for noise has no right pose."""
    if bool(empty.all()):
        return 0.0
    sure = (poses.present > SURE)[~empty]
    shares = [float(((common_frame(r[~empty], truth[~empty], group)[1] < NEAR) & sure).double().mean())
              for r in (poses.rotations.double(), HALF_TURN @ poses.rotations.double())]
    return max(shares)


def main() -> None:
    """Run the benchmark."""
    given = options()
    torch.set_num_threads(1)
    group, true = symmetry_group(given.symmetry or "C1"), symmetry_group(given.truth_symmetry)
    settings = StartSettings(given.particles, given.diameter, Path("none"), given.symmetry, given.starts,
                             images=given.images, resolution=given.resolution, seed=given.seed)
    fine = given.resolution or finest(len(group))
    truth = read_star(given.truth)
    with workflow.StackFiles() as files:
        source = workflow._inspected(settings, files, Together(ALONE)).source
        made = with_noise(workflow._task(source, settings, fine, group), given.noise, given.seed)
    task, empty = made.task, made.empty
    order = {(int(i), int(s)): row for row, (i, s) in enumerate(zip(truth.image_index, truth.stack_index, strict=True))}
    rows = [order[int(i), int(s)] for i, s in zip(source.table.image_index, source.table.stack_index, strict=True)]
    wanted = truth.rotations[torch.tensor(rows)]
    starts, seconds = [], []
    for number in range(1, given.starts + 1):
        begun = time.process_time()
        starts.append(start_from_nothing(task, number, fine, given.seed))
        seconds.append(time.process_time() - begun)
        one = starts[-1]
        found = right(one.last.poses, wanted, empty, true)
        print(f"start {number} {one.route}: {one.gain:.1f} nats, {found:.2f} right, "
              f"{seconds[-1]:.0f} CPU s", flush=True)
    best, alike, groups = max(starts, key=lambda one: one.gain), group, {}
    if given.symmetry is None:
        scores = scored_groups(best.last, task, fine)
        alike, groups = operators_in_frame(scores), {one.name: one.score for one in scores}
    compared = ranked(starts, task, alike)
    begun = time.process_time()
    further = finished(task, best, fine, given.seed, lambda: None)
    table = []
    for one, common in zip(compared.starts, compared.agreements, strict=True):
        sure = one.last.poses.present > SURE
        table.append({"start": one.number, "route": one.route, "evidence": one.gain,
                      "cpu_seconds": seconds[one.number - 1], "right": right(one.last.poses, wanted, empty, true),
                      "particles": one.last.share, "noise_taken": int((sure & empty).sum()),
                      "particles_lost": int((~sure & ~empty).sum()),
                      "same_pose_as_best": common.share, "agrees": common.agrees, "agrees_to_A": common.resolution})
    found = {"images": len(source.table), "noise": given.noise, "symmetry": given.symmetry, "fine_A": fine,
             "energy": task.energy(6), "images_of_noise": int(empty.sum()),
             "best_right_when_finished": right(further.last.poses, wanted, empty, true),
             "finishing_cpu_seconds": time.process_time() - begun, "point_groups": groups, "starts": table}
    for row in table:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    print(f"{given.name}: best finished {found['best_right_when_finished']:.2f} right; "
          f"{sum(row['right'] > 0.5 for row in table)} of {len(table)} starts more than half right; "
          f"{np.sum(seconds) / len(seconds):.0f} CPU s a start")
    record = json.loads(given.result.read_text()) if given.result.exists() else {"benchmark": "starts.py"}
    record[given.name] = found | {"circumstances": circumstances()}
    given.result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
