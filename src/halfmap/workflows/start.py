"""`halfmap start`: a starting map from images alone, and how far it is to be trusted.

Several starts look at one random subset of the images. The one with the most evidence is taken further, and what the
others have in common with it says whether it was found or came about by chance. Starts know nothing of each other, and
several processes share them (shared_starts.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.fourier.transform import resize_map
from halfmap.geometry.symmetry import canonical_name, symmetry_group
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import replaced_atomically, write_map
from halfmap.particles.ctf_states import chosen_state
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.star import write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.refinement.held_images import coarse_grid, held_images
from halfmap.refinement.outputs import PROBABILITY, made_folder
from halfmap.refinement.preflight import Divided, Inspected, ParticleInput, check_fits, inspect_images, read_particles
from halfmap.refinement.process_layout import Outlook, laid_out
from halfmap.refinement.soft_em import ImagePoses, SoftTask, WhitenedImages
from halfmap.refinement.starting_agreement import HALF_TURN, Agreement, mirrored, of_both_hands
from halfmap.refinement.starting_room import StartingDemand
from halfmap.refinement.starting_schedule import MANY, finest, shell
from halfmap.refinement.starting_views import View, views_of
from halfmap.refinement.starts import (
    FINISHING,
    GroupScore,
    Ranked,
    Start,
    by_share,
    centred,
    finished,
    operators_in_frame,
    ranked,
    scored_groups,
)
from halfmap.refinement.together import Together, together
from halfmap.refinement.told import tell
from halfmap.runtime.device import device_named
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import counted
from halfmap.settings.commands import assistant_words, command_line, to_toml
from halfmap.settings.start import StartSettings
from halfmap.validation.fsc import GOLD_STANDARD, resolution
from halfmap.workflows.shared_starts import shared_starts
from halfmap.workflows.start_checkpoints import StartCheckpoints

Report = Callable[..., Any]
FEWEST = 100  # images that a map is looked for in
SUBSET = 1  # stream of random numbers
FINER = 0.7  # of the finest detail of a start, which its grid has room for
OTHERS_NEEDED = 1  # starts beside the best that must agree with it
VIEWS = 8  # on the page
HAND_SEEN = 12.0  # A: detail that parts the hands of a protein
WORTH_SAYING = 0.05  # of the images hold no particle


@dataclass(frozen=True)
class StartingMap:
    """What `halfmap start` found.

    ranked: the starts, and what they have in common. best: the first of them, taken further and centred, its classes
    sorted by share. both_hands: whether its map is its own mirror image in detail that parts the hands of a protein.
    scores: of point groups, where none was given. resolutions [k]: in angstrom, where the half maps of
    a class stop agreeing. views [k]: of each class. grid: of the maps of starts.
    """

    ranked: Ranked
    best: Start
    both_hands: bool
    scores: list[GroupScore]
    resolutions: list[float]
    views: list[list[View]]
    grid: Grid

    @property
    def succeeded(self) -> bool:
        """Whether another start found the same map, and it is of one hand."""
        return len(self.ranked.agreeing) >= OTHERS_NEEDED and not self.both_hands

    def verdict(self) -> str:
        """How far the map is to be trusted, in a sentence."""
        count, agreeing = len(self.ranked.starts), self.ranked.agreeing
        if self.both_hands:
            return ("the map is its own mirror image: it holds both hands at once, and its poses are those of either; "
                    "do not trust it; give more images (--images) or finer detail (--resolution)")
        if count == 1:
            return "one start alone tells nothing of trust: give --starts 4 or more"
        if not agreeing:
            closest = max(one.share for one in self.ranked.agreements[1:])
            return (f"no other of {count} starts found the map of the best one (at most {100 * closest:.0f} % of the "
                    "images have the same pose in both): do not trust it; give more images (--images), finer detail "
                    "(--resolution), or the symmetry")
        worst = max(one.resolution for one in agreeing)
        return f"{len(agreeing) + 1} of {count} starts agree to {worst:.0f} A"


def start(settings: StartSettings, report: Report | None = None) -> StartingMap | None:
    """Find a map and write it into settings.out, alone or in several processes. settings: as `validated_start` returns
    them. Returns what the first process found, and None in the others.

    Where the same command was stopped, the starts that it had finished are taken up. report: writes the page, and is
    called with its fields. Raises InputError for what a user can mend, before anything is written.
    """
    device = device_named(settings.device, settings.deterministic)
    gpu = device.type == "cuda"
    name = canonical_name(settings.symmetry or "C1")
    group = symmetry_group(name)
    kept = StartCheckpoints(settings, device)
    layout = laid_out(settings.processes, settings.threads, gpu, partial(_outlook, settings, group))
    words = assistant_words(settings, layout.threads)
    with together(layout, words, gpu, kept.advice) as processes, StackFiles() as files:
        kept.check()
        inspected = _inspected(settings, files, processes)
        source, fine = inspected.source, _finest(settings, len(group))
        each = processes.ranks.on_machine
        _demand(source, settings, group).room(each, gpu).checked("a start", each, "fewer --images or a coarser "
                                                                 "--resolution")
        task = _task(source, settings, fine, group.to(device))
        if not processes.first:
            shared_starts(task, settings, fine, processes, kept)
            return None
        made_folder(settings.out)
        with kept.held(source.table, files), RunLog(settings.out / "log.txt") as log:
            log.begin(__version__, command_line(settings))
            for note in processes.notes:
                log.notice(note)
            tell([], inspected.findings, log)
            if inspected.rejected is not None:
                write_star(settings.out / "rejected.star", inspected.rejected)
            with replaced_atomically(settings.out / "settings.toml") as stream:
                stream.write(to_toml(settings).encode())
            starts = shared_starts(task, settings, fine, processes, kept, log)
            with processes.others_waiting():
                found = _found(starts, task, settings, fine)
            _written(found, source.table, settings)
            told = _told(found, settings, name)
            _say(found, settings, told, log)
            if report is not None:
                report(**_seen(found, told))
            kept.remove()
    return found


def _finest(settings: StartSettings, operators: int) -> float:
    return settings.resolution or finest(operators)


def _outlook(settings: StartSettings, group: Tensor) -> Outlook:
    """What decides how many processes a machine gives to starts: the particles' table is read."""
    source = ParticleSource(_read(settings).table, settings.diameter)
    return Outlook(settings.images, _demand(source, settings, group).room, settings.starts)


def _demand(source: ParticleSource, settings: StartSettings, group: Tensor) -> StartingDemand:
    grid = coarse_grid(source, FINER * _finest(settings, len(group)))
    images = min(settings.images, len(source.table))
    return StartingDemand(images, grid, settings.diameter, group, settings.classes)


def _read(settings: StartSettings, files: StackFiles | None = None) -> Divided:
    wanted = ParticleInput(
        settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix,
        optics=GivenOptics(settings.optics, settings.invert_contrast),
        ctf_state=chosen_state(settings.phase_flipped, settings.ctf_premultiplied))
    return read_particles(wanted, files)


def _inspected(settings: StartSettings, files: StackFiles, processes: Together) -> Inspected:
    """A random subset of the particles, and what was found odd about their images."""
    read = _read(settings, files)
    table = read.table
    if len(table) < FEWEST:
        raise InputError(f"{settings.particles}: {len(table)} images are too few to find a map from (at least {FEWEST}"
                         " are needed); give more particles, or a starting map to halfmap refine")
    used = min(len(table), settings.images)
    if used < FEWEST * settings.classes // 2:
        raise InputError(f"--classes {settings.classes}: {used} images are too few for so many maps (at least "
                         f"{FEWEST // 2} for each); ask for fewer, or look at more (--images)")
    check_fits(settings.diameter, max((Grid(one.box, one.pixel_size) for one in table.optics), key=lambda g: g.length))
    draw = np.random.default_rng([settings.seed, SUBSET])  # half sets are the first draw of the seed itself
    chosen = np.sort(draw.permutation(len(table))[: settings.images])
    with counted("reading images", len(chosen)) as advance:
        source = ParticleSource(table.select(chosen), settings.diameter, files=files)
        inspected = inspect_images(source, lambda n: advance(n * processes.ranks.world), processes.ranks)
    return replace(inspected, findings=[*read.findings, *inspected.findings])


def _task(source: ParticleSource, settings: StartSettings, fine: float, group: Tensor) -> SoftTask:
    """The images in two halves, those of the file or drawn."""
    grid = coarse_grid(source, FINER * fine)
    held = WhitenedImages.every(held_images(source, grid, grid.box // 2 - 2, group.device))
    assert source.table.half is not None
    half = torch.from_numpy(source.table.half)
    halves = tuple([_of_half(images, half, h) for images in held] for h in (0, 1))
    return SoftTask(halves, grid, settings.diameter, group)


def _of_half(images: WhitenedImages, half: Tensor, h: int) -> WhitenedImages:
    return images.where(half[images.index] == h)


def _found(starts: list[Start], task: SoftTask, settings: StartSettings, fine: float) -> StartingMap:
    """What starts have in common, and the best of them taken further."""
    best, scores, alike = max(starts, key=lambda one: one.gain), list[GroupScore](), task.group.cpu()
    if settings.symmetry is None:
        scores = scored_groups(best.last, task, fine)
        alike = operators_in_frame(scores)
    compared = ranked(starts, task, alike)
    with counted("finer detail", FINISHING) as advance:
        best = by_share(finished(task, best, fine, settings.seed, lambda: advance(1)))
    views = [views_of(best.last, number, max(4, VIEWS // settings.classes)) for number in range(settings.classes)]
    finest_shown = task.grid.length / shell(task.grid, FINER * fine)
    reached = [resolution(one.curve, task.grid.box, task.grid.pixel_size, GOLD_STANDARD) for one in best.last.classes]
    reached = [max(one, finest_shown) for one in reached]
    return StartingMap(compared, centred(best, task), _both_hands(best, task, min(reached)), scores, reached, views,
                       task.grid)


def _both_hands(best: Start, task: SoftTask, detail: float) -> bool:
    """Whether a map of a point group with many axes holds both hands. detail: that the map shows, in A; coarse detail
    is much the same in both."""
    if len(task.group) < MANY or detail > HAND_SEEN:
        return False
    return of_both_hands(best.last.largest.joined.cpu(), shell(task.grid, detail))


def _written(found: StartingMap, table: ParticleTable, settings: StartSettings) -> None:
    """Write the maps and the particles."""
    largest = int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())
    optics, flip = table.optics[largest], settings.hand == "flip"
    several = len(found.best.last.classes) > 1
    named = {"" if several else "map": found.best} | {f"start{one.number:02d}": one for one in found.ranked.starts}
    for file, one in named.items():
        for number, made in enumerate(one.last.classes, start=1):
            name = f"{file}{'_' if file else ''}class{number:03d}" if several else file
            v = mirrored(made.joined.cpu()) if flip else made.joined.cpu()
            write_map(settings.out / f"{name}.mrc", _on_images(v, found.grid, optics), optics.pixel_size)
    write_star(settings.out / "particles.star", _posed(table, found.best.last.poses, flip))


def _on_images(v: Tensor, grid: Grid, optics: OpticsGroup) -> Tensor:
    """A map on the grid of the images and in their grey scale, which counts voxels."""
    scale = (optics.pixel_size / grid.pixel_size) ** 3
    return resize_map(v, grid.pixel_size, optics.pixel_size, optics.box) * scale


def _posed(table: ParticleTable, poses: ImagePoses, flip: bool) -> ParticleTable:
    """The particles with the poses found."""
    rotations = HALF_TURN @ poses.rotations.double() if flip else poses.rotations
    extra = {
        "rlnMaxValueProbDistribution": poses.weight.float().numpy(),
        "rlnLogLikeliContribution": poses.evidence.float().numpy(),
        PROBABILITY: poses.present.float().numpy(),
        "rlnClassNumber": poses.class_of.numpy() + 1,
    }
    return with_poses(table, rotations, -poses.shifts, None, extra)


def _told(found: StartingMap, settings: StartSettings, name: str) -> dict[str, Any]:
    """Everything but maps and poses, as plain JSON values."""
    rows = [{"start": one.number, "route": one.route, "evidence": one.gain, "gains": one.gains,
             "shares": [each.share for each in one.last.classes],
             "particles": one.last.share, "same_pose_as_best": alike.share, "mirrored": alike.mirrored,
             "agrees_to_A": alike.resolution, "agrees": alike.agrees, "fsc_with_best": alike.curve.tolist()}
            for one, alike in zip(found.ranked.starts, found.ranked.agreements, strict=True)]
    return {
        "symmetry": name, "succeeded": found.succeeded, "verdict": found.verdict(), "starts": rows,
        "images": len(found.best.last.poses.index), "hand": settings.hand, "evidence": found.best.gain,
        "particles": found.best.last.share, "box": found.grid.box, "pixel_size": found.grid.pixel_size,
        "classes": [{"share": one.share, "resolution_A": reached, "fsc": one.curve.tolist()}
                    for one, reached in zip(found.best.last.classes, found.resolutions, strict=True)],
        "point_groups": {one.name: one.score for one in found.scores},
    }  # fmt: skip


def _say(found: StartingMap, settings: StartSettings, told: dict[str, Any], log: RunLog) -> None:
    """Write starts.json, and say what was found."""
    with replaced_atomically(settings.out / "starts.json") as stream:
        stream.write((json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
    say = log.notice if found.succeeded else log.warning
    say(found.verdict())
    empty = 1 - found.best.last.share
    if empty > WORTH_SAYING:
        log.notice(f"{100 * empty:.0f} % of the images hold no particle, as far as this map tells: "
                   "halfmapParticleProbability in particles.star")
    if found.scores:
        some = ", ".join(f"{one.name} {one.score:.2f}" for one in found.scores[:4])
        log.notice(f"the map against itself turned: {some}; a group that the particle has scores near 1")
    log.notice("its hand is not known: images cannot tell a map from its mirror image")


def _seen(found: StartingMap, told: dict[str, Any]) -> dict[str, Any]:
    """The fields of the page."""
    alike: list[Agreement] = found.ranked.agreements
    return {
        "told": told, "maps": [one.joined.cpu().numpy() for one in found.best.last.classes],
        "pixel_size": found.grid.pixel_size, "agreements": alike, "views": found.views,
        "starts": [one.last.largest.joined.cpu().numpy() for one in found.ranked.starts],
    }  # fmt: skip
