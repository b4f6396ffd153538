"""`halfmap audit`: find particles that occur twice or in both half sets, and write a STAR file without them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.half_sets import Division, assign_halves
from halfmap.particles.particle_file import read_particle_file
from halfmap.particles.same_images import PATTERNS, first_alike, first_named, same_file, signatures
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import looked_at
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.star import write_star
from halfmap.particles.table import Integers, ParticleTable
from halfmap.runtime import terminal
from halfmap.settings.particle_sets import AuditSettings, run_folder, run_setting
from halfmap.validation.halfset_audit import Audit, audit
from halfmap.validation.halfset_leaks import DIAMETER_PART, described, images_of

BOX_PART = 0.125  # usual distance as a share of the box, which is about twice the particle's diameter
BACKGROUND = 0.8  # of the images' side: what lies beyond gives an image its grey scale
SAMPLED = 1 << 16  # bytes compared at the start, in the middle and at the end of a stack
HEADER = 1024  # bytes of an MRC header, which are not compared: labels may differ between copies


def run(settings: AuditSettings) -> Audit:
    """Read the particles, print the findings, and write settings.out if it is given.

    settings: as `validated_audit` returns them. Raises InputError where a file cannot be used or written, or holds half
    sets other than 1 and 2.
    """
    table = read_particle_file(settings.particles, settings.data_dir, given=GivenOptics(settings.optics))
    distance = settings.distance or _usual_distance(settings.particles, table)
    same = _same_content(table.stacks)
    console = terminal.console()
    named, unread = first_named(table, same), ""
    first = named
    if settings.images:
        with console.status("reading images"):
            seen = _signatures(table)
        first, unread = first_alike(seen.patterns, table, same), seen.unread
    found = audit(images_of(table, first, compared=not np.array_equal(first, named)), distance)
    lines = _summary(table, found, distance, same) + ([unread] if unread else [])
    lines += [f"{one.kind}: {described(table, one)}" for one in found.findings]
    terminal.tell_findings(*(Finding(one.name, described(table, one), "particles",
                                     "note" if one.kind == "remark" else "warning") for one in found.findings))
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    if settings.out is not None:
        clean = replace(table, half=found.half).select(found.keep)
        drawn = table.half is None and len(np.unique(first[found.keep])) > 1
        if drawn:
            clean = assign_halves(clean, Division(), first[found.keep])
        write_star(settings.out, clean)
        console.print(escape(_cleaned(found, settings.out, clean, drawn)), soft_wrap=True)
    return found


@dataclass(frozen=True)
class _Seen:
    """Signatures [b, p] of the images, zero where one could not be read, and a sentence on those (empty: all were)."""

    patterns: Tensor
    unread: str


def _signatures(table: ParticleTable) -> _Seen:
    """Read every image once."""
    files = StackFiles()
    faults = [stack for stack in looked_at(table, files) if stack.fault]
    bad = np.isin(table.stack_index, [table.stack_index[stack.row] for stack in faults])
    rows, patterns = torch.from_numpy(np.flatnonzero(~bad)), torch.zeros(len(table), PATTERNS)
    side = min(group.box * group.pixel_size for group in table.optics)
    for batch in ParticleSource(table, BACKGROUND * side, files=files).stream(rows):
        patterns[batch.index] = signatures(batch.images)
    if not faults:
        return _Seen(patterns, "")
    return _Seen(patterns, f"{int(bad.sum())} images were compared by name only: {faults[0].fault}")


def _usual_distance(particles: Path, table: ParticleTable) -> float:
    """The distance (A) where --distance is not given: a share of the run's particle diameter, else of the box."""
    folder = run_folder(particles)
    if folder is not None:
        diameter = run_setting(folder, "diameter")
        if diameter:
            return DIAMETER_PART * float(diameter)
    return BOX_PART * min(group.box * group.pixel_size for group in table.optics)


def _same_content(stacks: Sequence[Path]) -> Integers:
    """Number the stacks [i] so that copies of one file have the same number.

    Stacks count as copies where their sizes agree, and their bytes at the start, in the middle and at the end.
    """
    numbers = same_file(stacks)
    sizes: dict[int, list[int]] = {}
    for i, path in enumerate(stacks):
        if path.exists():
            sizes.setdefault(path.stat().st_size, []).append(i)
    for size, members in sizes.items():
        if len({int(numbers[i]) for i in members}) > 1:
            seen: dict[bytes, int] = {}
            for i in members:
                numbers[i] = seen.setdefault(_digest(stacks[i], size), int(numbers[i]))
    return numbers


def _digest(path: Path, size: int) -> bytes:
    total = hashlib.blake2b()
    try:
        with path.open("rb") as stream:
            for place in (HEADER, size // 2, max(HEADER, size - SAMPLED)):
                stream.seek(place)
                total.update(stream.read(SAMPLED))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the file") from error
    return total.digest()


def _summary(table: ParticleTable, found: Audit, distance: float, same: Integers) -> list[str]:
    """What was read, and the verdict, each a line."""
    sizes = "no half sets" if table.half is None else "half sets of {} and {}".format(*np.bincount(table.half,
                                                                                                 minlength=2))
    if table.half is None and "rlnRandomSubset" in table.columns:
        sizes += f" (rlnRandomSubset is {table.columns['rlnRandomSubset'][0]} in every row; refine draws its own)"
    copies = len(table.stacks) - len(np.unique(same))
    held = table.micrographs
    where = "of micrographs that are not named" if held is None else f"of {len(held)} micrographs"
    lines = [f"{table.source}: {len(table)} particles {where}, {sizes}",
             f"neighbours nearer than {distance:.4g} A count as one particle"]
    if copies:
        lines.append(f"{copies} of {len(table.stacks)} stacks hold the same images as another")
    if not found.leaks:
        return [*lines, "No particle is there twice" + ("" if table.half is None else ", and nothing is in both half "
                                                                                      "sets") + "."]
    kinds = {finding.kind for finding in found.findings}
    if "leak" in kinds:
        return [*lines, "LEAK: the half sets are not independent; FSC and resolution of their maps are too good."]
    return [*lines, "DUPLICATES: not between the half sets, but a new division would put them there."]


def _cleaned(found: Audit, out: Path, clean: ParticleTable, drawn: bool) -> str:
    moved = f"; all copies of an image ({found.expanded}) are in the half set of the first" if found.expanded else ""
    if drawn and clean.half is not None:
        sizes = np.bincount(clean.half, minlength=2)
        moved = (f"; half sets of {sizes[0]} and {sizes[1]} were drawn as halfmap refine draws them (copies of an "
                 "image and filaments stay whole)")
    return (f"Wrote {out}: {int(found.keep.sum())} particles; left out {found.repeated} rows that repeat an image and "
            f"{found.near} near an earlier particle{moved}.")
