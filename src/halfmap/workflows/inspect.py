"""`halfmap inspect`: what is in a file, whether it is sane, and what a refinement of it would take.

Nothing is refused that can be looked at: faults that would stop a refinement are listed, all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.finding import Finding, Level
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.header import HeaderFacts, header_facts
from halfmap.maps.mrc import read_volume
from halfmap.maps.mrc_header import USUAL_ORDER
from halfmap.particles.cryosparc import particle_table
from halfmap.particles.cryosparc_alignments import read_alignments
from halfmap.particles.cryosparc_file import SUFFIXES, load_dataset
from halfmap.particles.ctf_states import chosen_state, with_ctf_state
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.sanity import header_notes, table_notes
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import SeenStack, looked_at
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.memory_limits import available_on
from halfmap.refinement.memory_plan import MemoryPlan, checked, demand_of, planned
from halfmap.refinement.outputs import read_records
from halfmap.refinement.process_layout import Layout, Outlook, automatic
from halfmap.refinement.run_time import Task, estimated_seconds, measured_speed
from halfmap.refinement.schedule import Schedule, subsets_of
from halfmap.refinement.told import spells
from halfmap.runtime import terminal
from halfmap.runtime.device import described, device_named
from halfmap.runtime.log import read_header as read_log
from halfmap.runtime.memory import allowance
from halfmap.settings.inspect import InspectSettings
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.refine import RefineSettings, from_toml
from halfmap.settings.regularisers import RegulariserOptions, need_of
from halfmap.validation.halfset_leaks import leaks
from halfmap.workflows.inspect_images import Looked, look
from halfmap.workflows.inspect_words import Fact, flat_slices_fact, image_facts, image_faults, image_notes, table_facts

Report = Callable[..., Any]
STACKS_NAMED = 5
LIKELY = 2 / 3  # of the images' side: the diameter of a particle in a box of the usual size
START = 30.0  # A, of the starting map that the time is counted for


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
    console = terminal.console()
    with console.status("looking"):
        found = _inspected(settings)
    width = max(len(name) for name, _ in found.facts)
    for name, text in found.facts:
        console.print(f"{name:<{width}}  {escape(text)}", soft_wrap=True)
    level: Level
    for title, sentences, level in (("would stop a refinement", found.faults, "warning"),
                                    ("to look at", found.notes, "note")):
        if sentences:
            terminal.tell_findings(*(Finding(text, text, found.name, level) for text in sentences))
            console.print(f"{title}:")
            for sentence in sentences:
                console.print(f"  - {escape(sentence)}", soft_wrap=True)
    if not found.faults and not found.notes:
        console.print("nothing odd")
    if report is not None and settings.out is not None:
        console.print(f"{report(found=found)}", soft_wrap=True)
    return found


def _inspected(settings: InspectSettings) -> Inspection:
    path, state = settings.file, chosen_state(settings.phase_flipped, settings.ctf_premultiplied)
    if path.is_dir():
        return _run_folder(path, settings)
    if path.suffix.lower() in SUFFIXES:
        dataset = load_dataset(path, settings.passthrough)
        table = particle_table(dataset, settings.data_dir, settings.strip_prefix, _given(settings))
        found = particles(with_ctf_state(table, state), "particles of cryoSPARC", settings)
        note = read_alignments(dataset).note
        return replace(found, notes=[note] * bool(note) + found.notes)
    if path.suffix.lower() == ".star":
        table = with_ctf_state(read_star(path, settings.data_dir, _given(settings)), state)
        return particles(table, "particles", settings)
    return _mrc(path, settings)


def _given(settings: InspectSettings) -> GivenOptics:
    return GivenOptics(settings.optics, settings.invert_contrast)


def particles(table: ParticleTable, kind: str, settings: InspectSettings) -> Inspection:
    """A particle set: the table, the headers of its stacks, a sample of its images, memory and time of a refinement."""
    stacks = list(looked_at(table))
    facts = table_facts(table, stacks)
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
        facts += image_facts(looked)
        faults += image_faults(looked)
        notes += image_notes(looked, settings.invert_contrast)
    facts.append(flat_slices_fact(table, diameter))
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
    schedule = Schedule(box, pixel_size, diameter, group, start, (box + 1) // 2 - 1, subsets=subsets_of(len(table)))
    device = device_named("auto")
    source = ParticleSource(table, diameter, device=device)
    largest = int(np.argmax([one.box for one in table.optics]))
    image_box, batch = table.optics[largest].box, min(len(table), source.batch_size(largest))
    padding, regulariser = settings.padding or 2, settings.regulariser or RegulariserOptions().regulariser
    need = need_of(RegulariserOptions(regulariser=regulariser))
    demand, threads = demand_of(schedule, padding, image_box, batch, regulariser, need), kernels.thread_count()
    if device.type == "cpu":
        def each(processes: int) -> MemoryPlan:
            return planned(demand, allowance(settings.max_memory, processes))

        layout = automatic(threads, Outlook(len(table), each))
        plan, where = each(layout.processes), f"on {threads} threads of {described(device)}"
    else:
        layout, where = Layout(1), f"on {described(device)}"
        plan = planned(replace(demand, gpu=True), available_on(device, settings.max_memory))
    seconds = estimated_seconds(Task(len(table), image_box, padding, schedule, plan), measured_speed(threads, device))
    total = _duration(sum(seconds.values()))
    return _Cost(plan, seconds, [
        Fact("memory", f"{plan.words()} ({regulariser}, padding {padding}"
             f"{f'; each of {layout.processes} processes' * (layout.processes > 1)})"),
        *(Fact("processes", f"{why}, on a CPU (--processes says otherwise)") for why in [layout.why] if why),
        Fact("time", f"about {total} {where}, an estimate: {_stages(seconds)}")])


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
    check_refinement(folder)
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
    found = particles(read_star(star, data, _given(settings)), "refinement", wanted)
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
    return (f"{asked.particles.name}, map {asked.starting_map.name}, diameter {asked.diameter:g} A, {asked.symmetry}, "
            f"{asked.regulariser}")


def _mrc(path: Path, settings: InspectSettings) -> Inspection:
    """A map, an image stack or a stack of volumes."""
    seen = header_facts(path)
    header, said, kind = seen.header, seen.said, seen.kind
    sides = " x ".join(str(size) for size in header.shape[::-1])
    facts = [
        Fact("map" if kind == "map" else "stack", f"{sides}, {header.dtype.name}" + ", gzipped" * header.compressed),
        Fact("pixel size", " x ".join(f"{side:.4g}" for side in header.voxel) + " A"),
        Fact("header says", f"least {said.least:.4g}, largest {said.largest:.4g}, mean {said.mean:.4g}, "
             f"sd {said.sd:.4g}"),
        *(Fact("label", label) for label in seen.labels if label),
    ]
    found = Inspection(path.name, kind, facts, [seen.fault] if seen.fault else [], list(seen.odd))
    if seen.fault:
        return found
    return _stack(path, seen, found, settings) if kind == "image stack" else _map(path, found)


def _map(path: Path, found: Inspection) -> Inspection:
    """The voxels of a map. A stack of volumes is refused with a line that says what it is."""
    try:
        read = read_volume(path)
    except InputError as error:
        return replace(found, faults=[*found.faults, str(error)])
    data = read.data
    least, largest, mean, sd = (float(value) for value in (data.min(), data.max(), data.mean(), data.std()))
    values = Fact("values", f"least {least:.4g}, largest {largest:.4g}, mean {mean:.4g}, sd {sd:.4g}")
    same = [f"{path.name}: the map is the same everywhere; give one with density"] * (least == largest)
    return replace(found, facts=[*found.facts, values], faults=[*found.faults, *same])


def _stack(path: Path, seen: HeaderFacts, found: Inspection, settings: InspectSettings) -> Inspection:
    """An image stack without a table: no CTF is known."""
    count, rows, columns = seen.header.shape
    if rows != columns or seen.header.compressed or seen.header.axes != USUAL_ORDER:
        why = "the images are not square" if rows != columns else "it is compressed or its axes are swapped"
        return replace(found, notes=[*found.notes, f"{path.name}: {why}; a refinement cannot read it"])
    pixel_size = seen.header.voxel.x if seen.header.voxel.x > 0 else 1.0
    group, zero = OpticsGroup("stack", 300.0, 2.7, 0.1, pixel_size, rows), torch.zeros(count, dtype=torch.float64)
    none = np.zeros(count, np.int64)
    table = ParticleTable(
        {}, (group,), none, (path,), none, np.arange(count), Defocus(zero, zero, zero, zero, zero, zero + 1), None,
        torch.zeros(count, 2, dtype=torch.float64), None, none, path,
    )  # fmt: skip
    looked = look(table, settings.diameter or LIKELY * rows * pixel_size, settings.images, with_ctf=False)
    return replace(found, facts=found.facts + image_facts(looked), looked=looked,
                   faults=found.faults + image_faults(looked), notes=found.notes + image_notes(looked))
