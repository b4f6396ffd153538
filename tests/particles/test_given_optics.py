"""Optics that a file lacks are given by options; what the file says is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from halfmap.cli.program import main
from halfmap.errors import InputError
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.star import read_star, write_star

Columns = dict[str, list[object]]
Text = Callable[..., str]
ALL = {"--voltage": 200.0, "--cs": 1.4, "--amplitude-contrast": 0.07, "--pixel-size": 2.5}
PFCRT = Path(__file__).parents[3] / "shared/data/real-files/FinalRefinement-OriginalParticles-PfCRT.star"
OF_OPTION = {"--voltage": ("rlnVoltage", "voltage"), "--cs": ("rlnSphericalAberration", "spherical_aberration"),
             "--amplitude-contrast": ("rlnAmplitudeContrast", "amplitude_contrast"),
             "--pixel-size": ("rlnImagePixelSize", "pixel_size")}


@pytest.mark.parametrize("option", ALL)
def test_a_missing_column_of_the_optics_is_filled_and_written(
    option: str, star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    label, name = OF_OPTION[option]
    del optics[label]
    star.write_text(star_text(optics=optics, particles=particles))
    with pytest.raises(InputError, match=f"table data_optics has no column {label}; give the value with {option}"):
        read_star(star)
    table = read_star(star, given=GivenOptics({option: ALL[option]}))
    assert [getattr(group, name) for group in table.optics] == [ALL[option]] * 2
    write_star("again.star", table)
    assert read_star("again.star").optics == table.optics


def test_a_file_of_relion_3_0_that_has_no_optics_at_all_is_filled(
    star: Path, star_text: Text, particles: Columns
) -> None:
    del particles["rlnOpticsGroup"]
    star.write_text(star_text(images=particles))
    with pytest.raises(InputError, match="the values with --voltage and --cs and --amplitude-contrast"):
        read_star(star)
    (group,) = read_star(star, given=GivenOptics(ALL)).optics
    assert [getattr(group, name) for _, name in OF_OPTION.values()] == list(ALL.values()) and group.box == 12


@pytest.mark.parametrize("option", ALL)
def test_what_contradicts_the_file_is_refused_and_what_agrees_is_not(option: str, star: Path) -> None:
    # The first optics group of the file has 300 kV, 2.7 mm, 0.1 and 1.25 A, the second the values of ALL.
    with pytest.raises(InputError, match=rf"{option} .*particles.star says (300|2\.7|0\.1|1\.25).*group 'first'"):
        read_star(star, given=GivenOptics({option: ALL[option]}))
    text = star.read_text().replace("1 first 300 2.7 0.1 1.25", "1 first 200 1.4 0.07 2.5")
    star.write_text(text)
    assert read_star(star, given=GivenOptics(ALL)).optics == read_star(star).optics


def test_fields_that_a_cryosparc_file_lacks_are_filled(project: Path) -> None:
    array = np.zeros(2, [("blob/path", "S16"), ("blob/idx", "<u4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"),
                         ("ctf/cs_mm", "<f4")])
    array["blob/path"], array["blob/idx"], array["ctf/cs_mm"] = b"stacks/a.mrcs", [0, 1], 1.4
    with open(project / "p.cs", "wb") as stream:
        np.save(stream, array)
    with pytest.raises(InputError, match=r"no field ctf/accel_kv; .*, or the value with --voltage"):
        read_cryosparc(project / "p.cs")
    (group,) = read_cryosparc(project / "p.cs", given=GivenOptics(ALL)).optics
    assert [getattr(group, name) for _, name in OF_OPTION.values()] == list(ALL.values())
    with pytest.raises(InputError, match=r"--cs 2\.7: .*p\.cs says 1\.4 mm"):
        read_cryosparc(project / "p.cs", given=GivenOptics(ALL | {"--cs": 2.7}))


def test_inverted_images_have_a_ctf_of_the_opposite_sign_also_in_the_file_written(star: Path) -> None:
    table, turned = read_star(star), read_star(star, given=GivenOptics(inverted=True))
    assert table.defocus.scale.tolist() == [1.0] * 7 and turned.defocus.scale.tolist() == [-1.0] * 7
    write_star("again.star", turned)
    assert read_star("again.star").defocus.scale.tolist() == [-1.0] * 7


@pytest.mark.skipif(not PFCRT.is_file(), reason="no ../shared/data/real-files here")
def test_the_pfcrt_file_is_read_with_an_amplitude_contrast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = PFCRT.read_text().count("mrcs ")
    stack = tmp_path / "Extract/job012/FinalRefinement-OriginalParticles-PfCRT.mrcs"
    stack.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(size=(rows, 64, 64)).astype(np.float32)
    mrcfile.write(stack, noise, voxel_size=1.035)
    words = ["inspect", str(PFCRT), "--threads", "1"]
    assert main(words) == 2 and "rlnAmplitudeContrast" in capsys.readouterr().err
    assert main([*words, "--amplitude-contrast", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "64 px of 1.035 A, 300 kV, Cs 0.001 mm, amplitude contrast 0.1" in said
    assert main([*words, "--amplitude-contrast", "1.5"]) == 2
    assert main(["inspect", str(stack), "--voltage", "300"]) == 2 and "--voltage" in capsys.readouterr().err
