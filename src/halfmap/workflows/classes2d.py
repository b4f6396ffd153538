"""`halfmap classes2d`: images into two-dimensional classes, and what a user chooses from afterwards."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import replaced_atomically, write_stack
from halfmap.particles.ctf_states import chosen_state, with_ctf_state
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.particle_file import read_particle_file
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import check_stacks
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.star import write_star
from halfmap.particles.star_text import write_tables
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.reconstruction.class_means import images_of
from halfmap.refinement.averaging_images import SharedImages, averaging_room, reference_grid
from halfmap.refinement.averaging_means import mean_mask
from halfmap.refinement.averaging_schedule import ClassPlan, ClassSchedule
from halfmap.refinement.averaging_state import AveragingCourse, Classes2d
from halfmap.refinement.class_averaging import Averaging
from halfmap.refinement.held_images import held_images
from halfmap.refinement.outputs import PROBABILITY, made_folder
from halfmap.refinement.preflight import Inspected, check_fits, inspect_images
from halfmap.refinement.process_layout import Outlook, laid_out
from halfmap.refinement.together import Together, together
from halfmap.refinement.told import tell
from halfmap.runtime.device import device_named
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import counted
from halfmap.settings.classes2d import Classes2dSettings
from halfmap.settings.commands import assistant_words, command_line, to_toml
from halfmap.workflows.classes2d_checkpoints import AveragingCheckpoints

LEAST_IMAGES = 10  # a class
FINEST, COARSEST = 9.0, 20.0  # A: bounds of the finest detail by default, which is
DETAIL = 14.0  # the diameter over this
STARTS = 5.0  # the diameter over this is the detail of the first iteration, which is
START_FINE, START_COARSE = 25.0, 40.0  # between these, in A
PRESENT = 0.5  # probability of a particle
FEW_PRESENT = 0.3  # share of images with a particle, below which something is wrong

Report = Callable[..., Path]


@dataclass(frozen=True)
class ClassRow:
    """A class as the page shows it. number: from 1; share: of the images; resolution: in A; images: that are assigned
    to it; present: how many of them probably hold a particle; signal: mean log-likelihood of its images above noise
    alone, in nats."""

    number: int
    share: float
    resolution: float
    images: int
    present: int
    signal: float


def classes2d(settings: Classes2dSettings, report: Report | None = None) -> Classes2d | None:
    """Find the classes, alone or in several processes, and write classes.mrcs, classes.star, particles.star,
    iterations.jsonl, settings.toml and log.txt into settings.out. Returns what the first process found, and None in the
    others.

    settings: as `validated_classes2d` returns them. Where the same command was stopped, it goes on after the last
    iteration that was finished, to the same bits. report: writes the page, and is called with its fields. Raises
    InputError where the particles cannot be used, or are too few.
    """
    device = device_named(settings.device, settings.deterministic)
    gpu, began = device.type == "cuda", time.perf_counter()
    kept = AveragingCheckpoints(settings, device)
    layout = laid_out(settings.processes, settings.threads, gpu, partial(_outlook, settings))
    words = assistant_words(settings, layout.threads)
    with together(layout, words, gpu, kept.advice) as processes, StackFiles() as files:
        kept.check()
        table = _particles(settings, files)
        source = ParticleSource(table, settings.diameter, files=files)
        schedule = _class_schedule(settings, source)
        ranks = processes.ranks
        averaging_room(schedule, ranks.on_machine, ranks.world, gpu).checked(
            f"{table.source}: {len(table):,} images", ranks.on_machine, "a random part of the images, a coarser "
                                                                        "--max-resolution")
        if not processes.first:
            seen = inspect_images(source, ranks=ranks)
            _averaging(settings, schedule, seen, processes, device).run()
            return None
        made_folder(settings.out)
        with kept.held(table, files), RunLog(settings.out / "log.txt") as log:
            log.begin(__version__, command_line(settings))
            for note in processes.notes:
                log.notice(note)
            log.notice(f"{table.source}: {len(table):,} images into {settings.classes} classes, from "
                       f"{schedule.coarse:.0f} A to {schedule.grid.length / schedule.last:.1f} A")
            with counted("looking at images", len(table)) as advance:
                seen = inspect_images(source, lambda n: advance(n * ranks.world), ranks)
            tell([], seen.findings, log)
            if seen.rejected is not None:
                write_star(settings.out / "rejected.star", seen.rejected)
            table = seen.source.table
            with counted("reading images", len(table)) as advance:
                averaging = _averaging(settings, schedule, seen, processes, device, advance)
            found2d = _iterated(averaging, kept, log)
            findings = [*seen.findings, *_findings(found2d)]
            tell(seen.findings, findings, log)
            rows = _class_rows(found2d)
            pictures = _write(settings, table, schedule.grid, found2d, rows)
            log.notice(f"{sum(row.share > 0 for row in rows)} classes, {sum(row.present for row in rows):,} of "
                       f"{len(table):,} images probably hold a particle; {time.perf_counter() - began:.0f} s")
            if report is not None:
                page = report(rows=rows, pictures=pictures.numpy(), pixel_size=schedule.grid.pixel_size,
                              diameter=settings.diameter, records=[dataclasses.asdict(one) for one in found2d.records],
                              findings=findings, particles=len(table))
                log.notice(f"Finished: {page}; keep classes with: halfmap select {settings.out} --classes 1 2 3 --out "
                           "good.star")
            log.finish()
            kept.remove()
    return found2d


def _averaging(
    settings: Classes2dSettings, schedule: ClassSchedule, seen: Inspected, processes: Together, device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> Averaging:  # fmt: skip
    """The classification before its first iteration, in each process with its part of the images."""
    source, ranks = seen.source, processes.ranks
    images = len(source.table)
    schedule, shared = dataclasses.replace(schedule, images=images), SharedImages.divided(source, ranks)
    frames = held_images(source, schedule.grid, schedule.last, advance=lambda n: advance(n * ranks.world),
                         some=shared.mine).frames
    order = torch.randperm(images, generator=torch.Generator().manual_seed(settings.seed))
    return Averaging(frames, schedule, _stacked(seen.power), order, device, settings.seed, shared)


def _outlook(settings: Classes2dSettings) -> Outlook:
    """What decides how many processes a machine gives to a classification: the particles' table is read."""
    with StackFiles() as files:
        schedule = _class_schedule(settings, ParticleSource(_particles(settings, files), settings.diameter))
    return Outlook(schedule.images, partial(averaging_room, schedule))


def _class_schedule(settings: Classes2dSettings, source: ParticleSource) -> ClassSchedule:
    """How the classes are found. Raises InputError for a diameter larger than the images."""
    grid = reference_grid(source)
    check_fits(settings.diameter, grid)
    fine = settings.max_resolution or min(max(settings.diameter / DETAIL, FINEST), COARSEST)
    fine = max(fine, 2.1 * grid.pixel_size)
    coarse = max(fine, min(max(settings.diameter / STARTS, START_FINE), START_COARSE))
    return ClassSchedule(grid, settings.diameter, coarse, fine, settings.iterations, settings.classes,
                         len(source.table))


def _particles(settings: Classes2dSettings, files: StackFiles) -> ParticleTable:
    given = GivenOptics(settings.optics, settings.invert_contrast)
    table = read_particle_file(
        settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix, given
    )
    table = with_ctf_state(table, chosen_state(settings.phase_flipped, settings.ctf_premultiplied))
    most = len(table) // LEAST_IMAGES
    if most < 1:
        raise InputError(f"{table.source}: {len(table)} images are too few for classes; give at least {LEAST_IMAGES}")
    if settings.classes > most:
        raise InputError(f"--classes {settings.classes}: {len(table):,} images are too few for so many ({LEAST_IMAGES} "
                         f"a class are needed); give at most {most}")
    check_stacks(table, files)
    return table


def _stacked(power: tuple[Tensor, ...]) -> Tensor:
    """Power [g, s] of groups whose images may have different sizes; shells that a group lacks repeat its last."""
    length = max(len(one) for one in power)
    return torch.stack([torch.cat([one, one[-1:].repeat(length - len(one))]) for one in power])


def _iterated(averaging: Averaging, kept: AveragingCheckpoints, log: RunLog) -> Classes2d:
    course = None
    try:
        course = kept.load()
    except InputError as error:
        log.notice(f"iterations are made again from the first one: {error}")
    if course is not None:
        log.notice(f"goes on after iteration {len(course.records)}, where the command was stopped")
    with ExitStack() as bars:

        def advance(plan: ClassPlan) -> Callable[[int], None]:
            bars.close()
            title = f"iteration {plan.iteration} of {averaging.schedule.iterations}"
            count = bars.enter_context(counted(title, plan.images))
            return lambda n: count(n * averaging.shared.ranks.world)

        def told(course: AveragingCourse) -> None:
            bars.close()
            kept.save(course)
            record = course.records[-1]
            seeded = f", {record.seeded} empty ones seeded anew" if record.seeded else ""
            log.notice(f"iteration {record.iteration:2d}: {record.images:,} images to {record.limit_A:.1f} A, "
                       f"{record.used} classes in use{seeded}, {record.seconds:.1f} s")

        found = averaging.run(advance, told, course)
    assert found is not None  # in the first process
    return found


def _class_rows(found: Classes2d) -> list[ClassRow]:
    """The classes, largest first."""
    number, present = found.poses.number, found.poses.present >= PRESENT
    classes = len(found.means.share)
    counts = torch.bincount(number, minlength=classes).tolist()
    with_particle = torch.bincount(number[present], minlength=classes).tolist()
    score = torch.zeros(classes, dtype=torch.float64).index_add_(0, number, found.poses.score.double())
    return [ClassRow(c + 1, float(found.means.share[c]), found.means.resolution[c], counts[c], with_particle[c],
                     float(score[c]) / max(1, counts[c])) for c in range(classes)]


def _findings(found: Classes2d) -> list[Finding]:
    """What a user should know of the classes."""
    said = []
    empty = int((found.means.share <= 0).sum())
    if empty:
        named = "1 class holds" if empty == 1 else f"{empty} classes hold"
        said.append(Finding("empty classes", f"{named} no image that is more than noise: fewer would do", "classes",
                            "note"))
    share = found.records[-1].present
    if share < FEW_PRESENT:
        said.append(Finding("few particles", f"{100 * share:.0f} % of the images look like more than noise; check "
                            "contrast (--invert-contrast), CTF and diameter", "images"))
    return said


def _write(settings: Classes2dSettings, table: ParticleTable, grid: Grid, found: Classes2d,
           rows: list[ClassRow]) -> Tensor:  # fmt: skip
    """Write the files, and return the means [c, y, x] in the box of the images."""
    out = settings.out
    means = images_of(found.means.transforms, found.means.plane, grid.box)
    means = means * mean_mask(grid, settings.diameter, grid.box)
    write_stack(out / "classes.mrcs", means, grid.pixel_size)
    stack = out / "classes.mrcs"
    if stack.is_relative_to(Path.cwd()):  # as RELION's projects have it
        stack = stack.relative_to(Path.cwd())
    write_tables(out / "classes.star", {
        "model_general": {
            "rlnReferenceDimensionality": np.array([2]), "rlnDataDimensionality": np.array([2]),
            "rlnOriginalImageSize": np.array([grid.box]), "rlnPixelSize": np.array([grid.pixel_size]),
            "rlnNrClasses": np.array([len(rows)]),
        },
        "model_classes": {
            "rlnReferenceImage": [f"{row.number:06d}@{stack}" for row in rows],
            "rlnClassDistribution": np.array([row.share for row in rows]),
            "rlnEstimatedResolution": np.array([row.resolution for row in rows]),
            "halfmapImages": np.array([row.images for row in rows]),
            "halfmapParticles": np.array([row.present for row in rows]),
            "halfmapSignal": np.array([row.signal for row in rows]),
        },
    })  # fmt: skip
    poses = found.poses
    extra = {
        "rlnClassNumber": (poses.number + 1).numpy(),
        "rlnMaxValueProbDistribution": poses.weight.numpy(),
        "rlnLogLikeliContribution": poses.score.numpy(),
        PROBABILITY: poses.present.numpy(),
    }
    write_star(out / "particles.star", with_poses(table, poses.rotation, -poses.shift, extra=extra))
    _write_text(out / "settings.toml", to_toml(settings))
    records = [dataclasses.asdict(one) for one in found.records]
    records[-1] |= {"search": "final", "classes": [dataclasses.asdict(row) for row in rows]}
    _write_text(out / "iterations.jsonl", "".join(json.dumps(one) + "\n" for one in records))
    return means


def _write_text(path: Path, text: str) -> None:
    with replaced_atomically(path) as stream:
        stream.write(text.encode())
