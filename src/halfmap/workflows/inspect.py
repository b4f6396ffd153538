"""`halfmap inspect`: what is in a file, whether it is sane, and what a refinement of it would take.

Nothing is refused that can be looked at: faults that would stop a refinement are listed, all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.header import HeaderFacts, header_facts, is_map
from halfmap.maps.mrc import read_map
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.cryosparc_file import SUFFIXES
from halfmap.particles.sanity import header_notes, table_notes
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import SeenStack, looked_at
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.memory_plan import MemoryPlan, checked, demand_of, planned
from halfmap.refinement.outputs import read_records
from halfmap.refinement.run_time import Task, estimated_seconds, measured_speed
from halfmap.refinement.schedule import Schedule
from halfmap.refinement.told import spells
from halfmap.runtime.log import read_header as read_log
from halfmap.runtime.memory import allowance
from halfmap.settings.inspect import InspectSettings
from halfmap.settings.refine import RefineSettings, from_toml
from halfmap.validation.halfset_leaks import leaks
from halfmap.workflows.inspect_images import Looked, look

Report = Callable[..., Any]
STACKS_NAMED = 5
LIKELY = 2 / 3  # of the images' side: the diameter of a particle in a box of the usual size
START = 30.0  # A, of the starting map that the time is counted for


class Fact(NamedTuple):
    """A line of what was found."""

    name: str
    text: str


@dataclass(frozen=True)
class Inspection:
    """What was found: facts, faults that would stop a refinement, and notes on what is worth a look. Of particles also
    the table, images, memory plan and seconds by stage, where there are any."""

    name: str
    kind: str
    facts: list[Fact]
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    table: ParticleTable | None = None
    looked: Looked | None = None
    plan: MemoryPlan | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def run(settings: InspectSettings, report: Report | None = None) -> Inspection:
    """Look at settings.file and print what is there. settings: as `validated_inspect` returns them.

    report: called with the fields of a page where settings.out is named. Raises InputError for a file that cannot be
    read at all.
    """
    kernels.set_threads(settings.threads)
    torch.set_num_threads(kernels.thread_count())
    console = Console(highlight=False)
    with console.status("looking"):
        found = _inspected(settings)
    width = max(len(name) for name, _ in found.facts)
    for name, text in found.facts:
        console.print(f"{name:<{width}}  {escape(text)}", soft_wrap=True)
    for title, sentences in (("would stop a refinement", found.faults), ("to look at", found.notes)):
        if sentences:
            console.print(f"{title}:")
            for sentence in sentences:
                console.print(f"  - {escape(sentence)}", soft_wrap=True)
    if not found.faults and not found.notes:
        console.print("nothing odd")
    if report is not None and settings.out is not None:
        console.print(f"{report(found=found)}", soft_wrap=True)
    return found


def _inspected(settings: InspectSettings) -> Inspection:
    path = settings.file
    if path.is_dir():
        return _run_folder(path, settings)
    if path.suffix.lower() in SUFFIXES:
        table = read_cryosparc(path, settings.data_dir, settings.passthrough, settings.strip_prefix)
        return particles(table, "particles of cryoSPARC", settings)
    if path.suffix.lower() == ".star":
        return particles(read_star(path, settings.data_dir), "particles", settings)
    return _mrc(path, settings)


def particles(table: ParticleTable, kind: str, settings: InspectSettings) -> Inspection:
    """A particle set: the table, the headers of its stacks, a sample of its images, memory and time of a refinement."""
    stacks = list(looked_at(table))
    facts = _table_facts(table, stacks)
    faults = [stack.fault for stack in stacks if stack.fault]
    if len(faults) > STACKS_NAMED:
        faults = [*faults[:STACKS_NAMED], f"{len(faults) - STACKS_NAMED} more stacks have faults like these"]
    odd = table_notes(table) + header_notes(table, stacks)
    diameter = settings.diameter or LIKELY * min(group.box * group.pixel_size for group in table.optics)
    odd += leaks(table, diameter)
    notes = [finding.text for finding in odd]
    sound = _readable(table, stacks)
    looked = look(sound, diameter, settings.images) if len(sound) else None
    if looked is not None:
        facts += _image_facts(looked)
        faults += _image_faults(looked)
        notes += _image_notes(looked)
    cost = _cost(table, diameter, settings)
    if cost.plan.peak > cost.plan.available:
        notes.append(_refused(cost.plan))
    return Inspection(
        settings.file.name, kind, facts + cost.facts, faults, notes, table, looked, cost.plan, cost.seconds
    )


def _readable(table: ParticleTable, stacks: list[SeenStack]) -> ParticleTable:
    """The particles whose stacks have no fault."""
    bad = {(int(table.stack_index[s.row]), int(table.optics_index[s.row])) for s in stacks if s.fault}
    pairs = zip(table.stack_index.tolist(), table.optics_index.tolist(), strict=True)
    return table.select(np.array([pair not in bad for pair in pairs], bool)) if bad else table


def _table_facts(table: ParticleTable, stacks: list[SeenStack]) -> list[Fact]:
    """What the table says, in words."""
    micrographs = np.bincount(table.micrograph)
    micrographs = micrographs[micrographs > 0]
    files = len({s.path for s in stacks})
    facts = [Fact("particles", f"{len(table):,} of {len(micrographs):,} micrographs ({micrographs.min()} to "
              f"{micrographs.max()} each), in {files:,} stack{'s' if files > 1 else ''}")]
    for number, group in enumerate(table.optics):
        count = int((table.optics_index == number).sum())
        extra = [word for word, there in (("beam tilt or odd aberrations", group.has_odd_aberration),
                                          ("even aberrations", any(group.even_zernike)),
                                          ("anisotropic magnification", group.has_distortion)) if there]
        facts.append(Fact(f"optics {group.name}", f"{count:,} images of {group.box} px of {group.pixel_size:.4g} A, "
                      f"{group.voltage:g} kV, Cs {group.spherical_aberration:g} mm, amplitude contrast "
                      f"{group.amplitude_contrast:g}" + "".join(f", {word}" for word in extra)))
    u, v = table.defocus.u.numpy(), table.defocus.v.numpy()
    mean = 0.5e-4 * (u + v)
    plate = "; phase plate" if bool(table.defocus.phase_shift.any()) else ""
    facts.append(Fact("defocus", f"{mean.min():.2f} to {mean.max():.2f} um, median {np.median(mean):.2f}; astigmatism "
                  f"{np.median(np.abs(u - v)):.0f} A{plate}"))
    if table.half is None:
        one = table.columns.get("rlnRandomSubset")
        why = "" if one is None else f" (rlnRandomSubset is {one[0]} in all rows)"
        facts.append(Fact("half sets", f"none{why}; a refinement draws them"))
    else:
        facts.append(Fact("half sets", " and ".join(f"{n:,}" for n in np.bincount(table.half, minlength=2))))
    if table.rotations is None:
        facts.append(Fact("poses", "none; a refinement finds them"))
    else:
        spread = float(table.origins.square().mean().sqrt())
        facts.append(Fact("poses", f"angles, and shifts of {spread:.1f} A along an axis (rms)"))
    kinds = sorted({str(s.header.dtype) for s in stacks if s.header is not None})
    facts.append(Fact("values", ", ".join(kinds) or "no stack can be read"))
    return facts


def _image_facts(looked: Looked) -> list[Fact]:
    """What images look like, in words."""
    bad = [f"{count} {what}" for what, count in looked.faulty.items() if count]
    said = f"{looked.count:,} looked at: {', '.join(bad) if bad else 'none faulty'}; {looked.doubtful} stand out"
    facts = [Fact("images", said)]
    for group in looked.spectra:
        if group.with_ctf:
            reach = group.rings.reach
            text = f"to {group.box * group.pixel_size / reach:.1f} A" if reach else "not seen"
            facts.append(Fact(f"Thon rings {group.name}", f"{text}, in {group.rings.images:,} images"))
    return facts


def _image_faults(looked: Looked) -> list[str]:
    bad = {what: count for what, count in looked.faulty.items() if count}
    if sum(bad.values()) <= 0.1 * looked.count:
        return []
    return [f"{sum(bad.values())} of {looked.count} images are {', '.join(bad)}; check how the stack was written"]


def _image_notes(looked: Looked) -> list[str]:
    notes = []
    bad = sum(looked.faulty.values())
    if 0 < bad <= 0.1 * looked.count:
        notes.append(f"{bad} of {looked.count} images are faulty; a refinement sets such aside in rejected.star")
    if looked.worst:
        notes.append("images that stand out from their stack the most: " + ", ".join(looked.worst))
    notes += [f"optics group {group.name}: no Thon rings where the CTF says; too few images to see them (--images), or "
              "defocus, voltage or pixel size are wrong" for group in looked.spectra
              if group.with_ctf and not group.rings.reach]
    return notes


@dataclass(frozen=True)
class _Cost:
    """What a refinement would take: memory, seconds by stage, and both in words."""

    plan: MemoryPlan
    seconds: dict[str, float]
    facts: list[Fact]


def _cost(table: ParticleTable, diameter: float, settings: InspectSettings) -> _Cost:
    """What a refinement of these images would take."""
    optics = table.optics[int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())]
    box, pixel_size = optics.box, optics.pixel_size
    if diameter > box * pixel_size:
        raise InputError(f"--diameter {diameter:g}: larger than the images ({box * pixel_size:.0f} A); give that of "
                         "the particle")
    group = symmetry_group(settings.symmetry or "C1")
    start = max(START, 4 * pixel_size)
    schedule = Schedule(box, pixel_size, diameter, group, start, (box + 1) // 2 - 1)
    source = ParticleSource(table, diameter)
    largest = int(np.argmax([one.box for one in table.optics]))
    image_box, batch = table.optics[largest].box, min(len(table), source.batch_size(largest))
    padding, regulariser = settings.padding or 2, settings.regulariser or "uniform"
    plan = planned(demand_of(schedule, padding, image_box, batch, regulariser), allowance(settings.max_memory))
    threads = kernels.thread_count()
    seconds = estimated_seconds(Task(len(table), image_box, padding, schedule, plan), measured_speed(threads))
    total = _duration(sum(seconds.values()))
    return _Cost(plan, seconds, [
        Fact("memory", f"{plan.words()} ({regulariser}, padding {padding})"),
        Fact("time", f"about {total} on {threads} threads, an estimate: {_stages(seconds)}")])


def _refused(plan: MemoryPlan) -> str:
    try:
        checked(plan)
    except InputError as error:
        return str(error)
    return ""


def _stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {_duration(value)}" for stage, value in seconds.items())


def _duration(seconds: float) -> str:
    """A time to one or two figures, as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


def _run_folder(folder: Path, settings: InspectSettings) -> Inspection:
    """A refinement: how far it got, and its particles."""
    asked = from_toml(folder / "settings.toml")
    facts = [Fact("run", _status(folder)), Fact("settings", _asked(asked))]
    try:
        records = read_records(folder / "iterations.jsonl")
    except InputError:
        records = []
    notes = []
    if records:
        last = records[-1]
        facts.append(Fact("reached", f"iteration {last['iteration']} ({last['search']}), {last['resolution_A']:.2f} A "
                          f"at FSC 0.143 unmasked, {last['resolution_05_A']:.2f} A at 0.5"))
        notes += [spell.finding.text if spell.stands else f"{spell.when()}: {spell.finding.text}"
                  for spell in spells(records)]
    star = folder / "particles.star"
    data = settings.data_dir or asked.data_dir
    if not star.is_file():
        return Inspection(folder.name, "refinement", facts, [], notes)
    wanted = replace(
        settings, diameter=settings.diameter or asked.diameter, symmetry=settings.symmetry or asked.symmetry,
        regulariser=settings.regulariser or asked.regulariser, padding=settings.padding or asked.padding,
    )
    found = particles(read_star(star, data), "refinement", wanted)
    notes += [text for text in found.notes if text not in notes]  # the run has said some of them
    return replace(found, name=folder.name, facts=facts + found.facts, notes=notes)


def _status(folder: Path) -> str:
    log = read_log(folder / "log.txt")
    begun = f", begun {log.started}" if log.started else ""
    if log.finished:
        return f"finished{begun}"
    if (folder / "checkpoint" / "state").is_file():
        return f"running or stopped{begun}; go on with: halfmap resume {folder}"
    return f"running or stopped{begun}; there is nothing to resume it from"


def _asked(asked: RefineSettings) -> str:
    return (f"{asked.particles.name}, map {asked.map.name}, diameter {asked.diameter:g} A, {asked.symmetry}, "
            f"{asked.regulariser}")


def _mrc(path: Path, settings: InspectSettings) -> Inspection:
    """A map or an image stack."""
    seen = header_facts(path)
    header, said = seen.header, seen.said
    sections, rows, columns = header.shape
    facts = [
        Fact("map" if is_map(header) else "stack", f"{columns} x {rows} x {sections}, {header.dtype.name}"
         + (", gzipped" if header.compressed else "")),
        Fact("pixel size", " x ".join(f"{side:.4g}" for side in header.voxel) + " A"),
        Fact("header says", f"least {said.least:.4g}, largest {said.largest:.4g}, mean {said.mean:.4g}, "
             f"sd {said.sd:.4g}"),
        *(Fact("label", label) for label in seen.labels if label),
    ]
    faults, notes = [seen.fault] if seen.fault else [], list(seen.odd)
    if seen.fault:
        return Inspection(path.name, "map" if is_map(header) else "image stack", facts, faults, notes)
    if is_map(header):
        try:
            data = read_map(path).data
        except InputError as error:
            return Inspection(path.name, "map", facts, [*faults, str(error)], notes)
        facts.append(Fact("values", f"least {float(data.min()):.4g}, largest {float(data.max()):.4g}, mean "
                      f"{float(data.mean()):.4g}, sd {float(data.std()):.4g}"))
        if float(data.min()) == float(data.max()):
            faults.append(f"{path.name}: the map is the same everywhere; give one with density")
        return Inspection(path.name, "map", facts, faults, notes)
    return _stack(path, seen, Inspection(path.name, "image stack", facts, faults, notes), settings)


def _stack(path: Path, seen: HeaderFacts, found: Inspection, settings: InspectSettings) -> Inspection:
    """An image stack without a table: no CTF is known."""
    count, rows, columns = seen.header.shape
    if rows != columns or seen.header.compressed or seen.header.axes != (1, 2, 3):
        why = "the images are not square" if rows != columns else "it is compressed or its axes are swapped"
        return replace(found, notes=[*found.notes, f"{path.name}: {why}; a refinement cannot read it"])
    pixel_size = seen.header.voxel[0] if seen.header.voxel[0] > 0 else 1.0
    group, zero = OpticsGroup("stack", 300.0, 2.7, 0.1, pixel_size, rows), torch.zeros(count, dtype=torch.float64)
    none = np.zeros(count, np.int64)
    table = ParticleTable(
        {}, (group,), none, (path,), none, np.arange(count), Defocus(zero, zero, zero, zero, zero, zero + 1), None,
        torch.zeros(count, 2, dtype=torch.float64), None, none, path,
    )  # fmt: skip
    looked = look(table, settings.diameter or LIKELY * rows * pixel_size, settings.images, with_ctf=False)
    return replace(found, facts=found.facts + _image_facts(looked), looked=looked,
                   faults=found.faults + _image_faults(looked), notes=found.notes + _image_notes(looked))
