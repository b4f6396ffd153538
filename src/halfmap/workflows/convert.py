"""``halfmap convert``: convert particles between RELION's format and cryoSPARC's, divide their optics groups, and say
what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.cryosparc import particle_table, unread_fields
from halfmap.particles.cryosparc_alignments import read_alignments
from halfmap.particles.cryosparc_file import SUFFIXES, load_dataset
from halfmap.particles.cryosparc_write import write_cryosparc
from halfmap.particles.ctf_states import chosen_state, with_ctf_state
from halfmap.particles.epu_xml import LABELS, with_beam_shifts
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.optics_division import divided, division_rule
from halfmap.particles.stack import looked_at
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable
from halfmap.runtime.terminal import say, tell_remarks
from halfmap.settings.convert import ConvertSettings
from halfmap.workflows.optics_groups import told_groups

MOST_NAMED = 8  # dropped fields of one kind are named up to this many, and counted beyond


def convert(settings: ConvertSettings, report: Callable[..., Path] | None = None) -> None:
    """Read a file, divide its optics groups if that is asked for, write the other, and print what it holds and what was
    dropped. report writes the page of the groups from the fields of an OpticsGroupsPage.

    Stacks need not be there. Raises InputError as the readers and writers do, and where a stack that is there does not
    hold the images that are named, or optics groups cannot be divided so.
    """
    rule = None if settings.group_by is None else division_rule(settings.group_by)
    given, state = GivenOptics(settings.optics), chosen_state(settings.phase_flipped, settings.ctf_premultiplied)
    dropped: list[str] = []
    note = ""
    if settings.particles.suffix.lower() in SUFFIXES:
        dataset = load_dataset(settings.particles, settings.passthrough)
        table = particle_table(dataset, settings.data_dir, settings.strip_prefix, given)
        dropped, note = _by_kind(unread_fields(dataset)), read_alignments(dataset).note
    else:
        table = read_star(settings.particles, settings.data_dir, given)
    table = with_ctf_state(table, state)
    _check_images(table)
    if settings.xml is not None:
        table, rule = with_beam_shifts(table, settings.xml), division_rule(",".join(LABELS))
    division = None if rule is None else divided(table, rule, settings.groups)
    table = table if division is None else division.table
    if settings.out.suffix.lower() in SUFFIXES:
        dropped += write_cryosparc(settings.out, table)
    else:
        write_star(settings.out, table)
    say(f"{settings.out}: {_content(table)}")
    remarks = [f"dropped: {phrase}" for phrase in dropped] + [note] * bool(note) + _notes(table)
    if rule is not None and division is not None:
        for sentence in told_groups(division, rule, report):
            say(f"- {sentence}")
    tell_remarks("particles", remarks)
    for sentence in remarks:
        say(f"- {sentence}")


def _check_images(table: ParticleTable) -> None:
    """Raise InputError for a stack that is there but lacks an image that is named, or has images of another size."""
    for seen in looked_at(table):
        if seen.fault and seen.header is not None:
            raise InputError(seen.fault)


def _content(table: ParticleTable) -> str:
    """What a table holds, in one line."""
    groups = len(table.optics)
    parts = [f"{len(table)} particle{'s' * (len(table) != 1)}", f"{groups} optics group{'s' * (groups != 1)}",
             "no orientations" if table.rotations is None else "orientations"]
    if table.half is None:
        parts.append("no half sets")
    else:
        parts.append("half sets of " + " and ".join(str(int(size)) for size in np.bincount(table.half, minlength=2)))
    return ", ".join(parts)


def _notes(table: ParticleTable) -> list[str]:
    """Remarks on the result, each a sentence."""
    notes = []
    absent = [stack for stack in table.stacks if not stack.is_file()]
    if absent:
        notes.append(f"{len(absent)} of {len(table.stacks)} image stacks were not found (first: {absent[0]}); their "
                     "paths are as they were")
    dark = int((table.defocus.scale < 0).sum())
    if dark:
        notes.append(f"{dark} images are dark where the particle is: their CTF has a negative scale, which turns them")
    if any(group.has_odd_aberration for group in table.optics):
        notes.append("beam tilt and trefoil: their sign is that of csparc2star.py, and was not compared with real data")
    return notes


def _by_kind(fields: list[str]) -> list[str]:
    """One phrase for each kind of field. The kind is the part of a field's name before the slash."""
    counts = Counter(field.partition("/")[0] for field in fields)
    phrases = []
    for kind, count in counts.items():
        names = [field.partition("/")[2] for field in fields if field.partition("/")[0] == kind]
        listed = ", ".join(names) if count <= MOST_NAMED else f"{count} fields"
        phrases.append(f"{kind} ({listed})" if any(names) else kind)
    return phrases
