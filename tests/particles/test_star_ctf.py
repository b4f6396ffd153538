"""What a particle file says was done to the images about their CTF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import starfile

from halfmap.errors import InputError
from halfmap.imaging.optics import CtfState
from halfmap.particles.cryosparc_write import write_cryosparc
from halfmap.particles.star import read_star, write_star

Columns = dict[str, list[object]]
Text = Callable[..., str]


@pytest.mark.parametrize("label, state", [
    ("rlnCtfDataArePhaseFlipped", CtfState.PHASE_FLIPPED), ("rlnCtfDataAreCtfPremultiplied", CtfState.PREMULTIPLIED)])
@pytest.mark.parametrize("where", ["optics", "particles"])
def test_what_was_done_about_the_ctf_is_read_for_each_group_and_written_back(
    star: Path, star_text: Text, optics: Columns, particles: Columns, tmp_path: Path, label: str, state: CtfState,
    where: str
) -> None:
    if where == "optics":
        optics[label] = [0, 1]
    else:
        particles[label] = [int(number == 2) for number in particles["rlnOpticsGroup"]]
    star.write_text(star_text(optics=optics, particles=particles))
    table = read_star(star)
    assert [group.ctf_state for group in table.optics] == [CtfState.UNTOUCHED, state]
    write_star(tmp_path / "out.star", table)
    written = starfile.read(tmp_path / "out.star")
    assert written["optics"][label].tolist() == [0, 1] and label not in written["particles"]
    dropped = write_cryosparc(tmp_path / "out.cs", table)
    assert any(f"that images are {state.value}" in phrase for phrase in dropped)


def test_a_table_of_relion_3_0_says_it_for_each_particle(star: Path, star_text: Text, particles: Columns) -> None:
    old = {label: column for label, column in particles.items() if label != "rlnOpticsGroup"}
    count = len(old["rlnImageName"])
    old |= {"rlnVoltage": [300] * count, "rlnSphericalAberration": [2.7] * count, "rlnAmplitudeContrast": [0.1] * count,
            "rlnPixelSize": [1.25] * count, "rlnCtfDataArePhaseFlipped": [0] * 3 + [1] * (count - 3)}
    star.write_text(star_text(images=old))
    table = read_star(star)
    assert [table.optics[g].ctf_state for g in table.optics_index] == (
        [CtfState.UNTOUCHED] * 3 + [CtfState.PHASE_FLIPPED] * (count - 3))


def test_particles_of_one_group_that_were_treated_in_two_ways_are_refused(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    particles["rlnCtfDataArePhaseFlipped"] = [1] + [0] * (len(particles["rlnImageName"]) - 1)
    star.write_text(star_text(optics=optics, particles=particles))
    with pytest.raises(InputError, match="row 2: rlnCtfDataArePhaseFlipped is 0"):
        read_star(star)
    optics["rlnCtfDataArePhaseFlipped"] = optics["rlnCtfDataAreCtfPremultiplied"] = [1, 1]
    del particles["rlnCtfDataArePhaseFlipped"]
    star.write_text(star_text(optics=optics, particles=particles))
    with pytest.raises(InputError, match="both"):
        read_star(star)
