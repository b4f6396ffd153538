"""What a particle file, or the user, says was done to the images about their CTF before they were stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from halfmap.errors import InputError
from halfmap.imaging.optics import CtfState
from halfmap.particles.star_text import StarTable
from halfmap.particles.table import Integers, ParticleTable

LABELS = {CtfState.PHASE_FLIPPED: "rlnCtfDataArePhaseFlipped", CtfState.PREMULTIPLIED: "rlnCtfDataAreCtfPremultiplied"}
OPTIONS = {CtfState.PHASE_FLIPPED: "--phase-flipped", CtfState.PREMULTIPLIED: "--ctf-premultiplied"}
MODELLED = {CtfState.PHASE_FLIPPED: "modelled with |CTF|",
            CtfState.PREMULTIPLIED: "modelled with CTF^2, and the noise with it"}


def ctf_states(particles: StarTable, optics: StarTable, optics_index: Integers) -> list[CtfState]:
    """The state of each optics group [g], from the table of optics or from that of particles.

    optics_index [b]: the row of the optics table that each particle belongs to. Raises InputError where a group is both
    phase-flipped and multiplied by the CTF, or its particles differ.
    """
    states = [CtfState.UNTOUCHED] * len(optics)
    for state, label in LABELS.items():
        told = np.zeros(len(optics), bool)
        if label in optics.columns:
            told |= optics.integers(label) != 0
        if label in particles.columns:
            said = particles.integers(label) != 0
            told[optics_index[said]] = True
            differs = told[optics_index] & ~said
            if differs.any():
                raise InputError(f"{particles.at(int(np.argmax(differs)))}: {label} is 0, but not for others of its "
                                 "optics group; give images that were treated otherwise an optics group of their own")
        for group in np.flatnonzero(told).tolist():
            if states[group] is not CtfState.UNTOUCHED:
                raise InputError(f"{optics.at(group)}: both {' and '.join(LABELS.values())} are set; images are one or "
                                 "the other: correct the table")
            states[group] = state
    return states


def chosen_state(phase_flipped: bool, ctf_premultiplied: bool) -> CtfState | None:
    """The state that options ask for; None where they leave it to the file."""
    if phase_flipped:
        return CtfState.PHASE_FLIPPED
    return CtfState.PREMULTIPLIED if ctf_premultiplied else None


def with_ctf_state(table: ParticleTable, state: CtfState | None) -> ParticleTable:
    """The table with images in this state, whatever its optics groups do not say (None: as the file says).

    Raises InputError where the file says that they are in another state than the untouched one.
    """
    if state is None:
        return table
    for group in table.optics:
        if group.ctf_state not in (CtfState.UNTOUCHED, state):
            raise InputError(f"{OPTIONS[state]}: optics group {group.name} of {table.source.name} says that its images "
                             f"are {group.ctf_state.value} ({LABELS[group.ctf_state]}); leave the option out")
    return replace(table, optics=tuple(replace(group, ctf_state=state) for group in table.optics))


def state_sentences(table: ParticleTable) -> list[str]:
    """What is done about images that are not as they were recorded, a sentence for each state."""
    said = []
    for state, treated in MODELLED.items():
        names = [group.name for group in table.optics if group.ctf_state is state]
        if names:
            said.append(f"images of optics group{'s' * (len(names) > 1)} {_listed(names)} are {state.value}: {treated}")
    return said


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
