"""``halfmap ctf-refine`` on images made by the formulas from optics that the STAR file does not say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from fixtures.projects import Outcome
from fixtures.wrong_optics import BOX, COUNT, DIAMETER, PIXEL, SPECIMEN, TILT, Imaged

from halfmap.imaging.optics import CtfState
from halfmap.maps.mrc import write_map
from halfmap.particles.cryosparc_write import write_cryosparc
from halfmap.particles.star import read_star, write_star
from halfmap.settings.ctf_refine import CtfRefineSettings, fit_names, validated_ctf_refine
from halfmap.workflows import ctf_refine as workflow
from halfmap.workflows.posed_particles import read_posed
from halfmap.workflows.specimen_tilt import places_of, specimen_tilt


def settings_of(imaged: Imaged, **options: Any) -> CtfRefineSettings:
    return validated_ctf_refine(CtfRefineSettings(fit="tilt", out=imaged.folder / "none", threads=1, **options))


def test_noise_and_grey_scale_of_another_programs_maps_are_estimated_from_the_images(imaged: Imaged) -> None:
    folder = imaged.folder
    posed = read_posed(settings_of(imaged, particles=folder / "true.star", half1=folder / "half1.mrc",
                                   mask=folder / "mask.mrc", diameter=DIAMETER))
    axis = np.arange(BOX) - BOX // 2
    outside = np.hypot(axis, axis[:, None]) > 0.5 * DIAMETER / PIXEL
    unit = (1 / mrcfile.read(folder / "particles.mrcs")[:, outside].var(axis=1)).mean()  # signal lies there too
    white = posed.state.sigma2[0][2:] / (unit * BOX**2)
    assert float(white.mean()) == pytest.approx(1.0, abs=0.03) and float((white - 1).abs().max()) < 0.12
    run = read_posed(settings_of(imaged, particles=folder / "run"))
    # The run's maps are on the scale of the images.
    scale = (posed.state.references[0] * run.state.references[0]).sum() / run.state.references[0].square().sum()
    assert float(scale) == pytest.approx(1.0, abs=0.08)


def test_the_plane_of_a_tilted_specimen_is_found_from_the_defocus_of_its_particles(imaged: Imaged) -> None:
    table = read_star(imaged.folder / "particles.star")
    places = places_of(table)
    assert places is not None and not places.assumed
    flat = specimen_tilt(table, places)
    assert flat is not None and not flat.significant
    tilt = specimen_tilt(read_star(imaged.folder / "true.star"), places)
    assert tilt is not None and tilt.significant
    assert abs(tilt.angle - SPECIMEN) < 3 * tilt.error < 3.0 and min(tilt.azimuth, 360 - tilt.azimuth) < 10.0


def test_the_star_file_keeps_every_other_column_and_has_the_optics_that_the_images_were_made_with(
    imaged: Imaged, optics_fitted: Outcome
) -> None:
    done = optics_fitted
    assert "the specimen is tilted by" in done.said and f"halfmap refine {done.out}/particles.star" in done.said
    before, after = (starfile.read(folder / "particles.star") for folder in (imaged.folder / "run", done.out))
    optics = after["optics"].iloc[0] if len(after["optics"].shape) > 1 else after["optics"]
    assert (float(optics["rlnBeamTiltX"]), float(optics["rlnBeamTiltY"])) == pytest.approx(TILT, abs=0.1)
    found, true = after["particles"]["rlnDefocusU"].to_numpy(), imaged.truth.numpy()
    given = before["particles"]["rlnDefocusU"].to_numpy()
    assert np.corrcoef(found - given, true - given)[0, 1] > 0.9
    assert np.std(found - true) < 0.4 * np.std(given - true)
    changed = {"rlnDefocusU", "rlnDefocusV", "rlnOriginXAngst", "rlnOriginYAngst"}
    others = [label for label in before["particles"] if label not in changed]
    assert before["particles"][others].equals(after["particles"][others])
    told = json.loads((done.out / "ctf_refine.json").read_text())
    named = {one["name"]: one for one in told["parameters"]}
    assert named["tilt"]["values"][0]["applied"] and named["defocus"]["applied"] > 0.9 * COUNT
    assert abs(told["specimen_tilt"]["angle"] - SPECIMEN) < 2.0
    page = (done.out / "ctf_refine.html").read_text()
    assert page.count("data:image/png") == 5 and "change of defocus" in page and "mrad" in page


def test_half_maps_of_another_program_say_the_same(imaged: Imaged, halfmap: Callable, tmp_path: Path) -> None:
    done = halfmap(["ctf-refine", *imaged.star_words, "--fit", "tilt", "--threads", 1, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    assert read_star(done.out / "particles.star").optics[0].beam_tilt == pytest.approx(TILT, abs=0.1)


def test_a_dataset_of_cryosparc_says_the_same_and_its_values_come_in_a_star_file(
    imaged: Imaged, halfmap: Callable, tmp_path: Path
) -> None:
    write_cryosparc(tmp_path / "particles.cs", read_star(imaged.folder / "particles.star"))
    dataset = np.load(tmp_path / "particles.cs")
    lacking = dataset[[name for name in dataset.dtype.names if name != "ctf/amp_contrast"]]
    with (tmp_path / "lacking.cs").open("wb") as file:
        np.save(file, lacking)
    words = ["--fit", "tilt", "--threads", 1, "--device", "cpu", "--out"]
    done = halfmap(["ctf-refine", tmp_path / "particles.cs", *imaged.star_words[1:], *words, tmp_path / "out"])
    assert done.status == 0, done.error
    optics = read_star(done.out / "particles.star").optics[0]
    assert optics.beam_tilt == pytest.approx(TILT, abs=0.1)
    given = ["ctf-refine", tmp_path / "lacking.cs", *imaged.star_words[1:], *words, tmp_path / "given"]
    refused = halfmap(given)
    assert refused.status == 2 and "amp_contrast" in refused.error and "--amplitude-contrast" in refused.error
    done = halfmap([*given, "--amplitude-contrast", 0.1])
    assert done.status == 0 and read_star(done.out / "particles.star").optics[0].beam_tilt == optics.beam_tilt


def test_coma_of_a_microscope_whose_cs_is_corrected_is_no_tilt_of_the_beam(
    imaged: Imaged, halfmap: Callable, tmp_path: Path
) -> None:
    table = read_star(imaged.folder / "particles.star")
    corrected = replace(table.optics[0], spherical_aberration=0.01)
    write_star(tmp_path / "corrected.star", replace(table, optics=(corrected,)))
    done = halfmap(["ctf-refine", tmp_path / "corrected.star", *imaged.star_words[1:], "--fit", "tilt", "--threads", 1,
                    "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    tilt = math.hypot(*TILT)
    assert "its mrad are no tilt of the beam" in done.said and f"the coma of {tilt:.1f}" in done.said
    found = np.array(read_star(done.out / "particles.star").optics[0].beam_tilt) * 0.01 / 2.7
    assert found == pytest.approx(TILT, abs=0.15)
    assert "no tilt of the beam" in (done.out / "ctf_refine.html").read_text()


def test_parameters_are_named_with_commas_or_blanks_in_any_order() -> None:
    assert fit_names("--fit", "tilt, defocus cs") == fit_names("--fit", "cs,tilt,defocus") == ("defocus", "tilt", "cs")
    assert fit_names("--fit", "defocus,astigmatism-particle") == ("astigmatism-particle",)


def test_an_interrupted_pass_leaves_nothing(
    imaged: Imaged, halfmap: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*values: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "count_images", interrupted)
    done = halfmap(["ctf-refine", imaged.folder / "run", "--fit", "tilt", "--out", tmp_path / "out"])
    assert done.status == 130 and "nothing was written" in done.error and not (tmp_path / "out").exists()


def test_what_cannot_be_fitted_is_said_in_one_line(
    imaged: Imaged, halfmap: Callable, edit_star: Callable, tmp_path: Path
) -> None:
    folder, run = imaged.folder, imaged.folder / "run"

    def star(name: str, change: Callable[[dict[str, Any]], object]) -> list[object]:
        return [edit_star(folder / "particles.star", tmp_path / name, change), *imaged.star_words[1:]]

    def dropped(*labels: str) -> Callable[[dict[str, Any]], object]:
        return lambda tables: tables.update(particles=tables["particles"].drop(columns=list(labels)))

    def each_its_own(tables: dict[str, Any]) -> None:
        tables["particles"]["rlnMicrographName"] = [f"{i}.mrc" for i in range(COUNT)]

    flipped = read_star(folder / "particles.star")
    write_star(tmp_path / "flipped.star", replace(flipped, optics=tuple(
        replace(group, ctf_state=CtfState.PHASE_FLIPPED) for group in flipped.optics)))
    unfinished = Path(shutil.copytree(run, tmp_path / "unfinished"))
    (unfinished / "iterations.jsonl").write_text(json.dumps({"search": "local"}) + "\n")
    coarse = Path(shutil.copytree(run, tmp_path / "coarse"))
    for half in (1, 2):
        write_map(coarse / f"half{half}_unfil.mrc", torch.randn(BOX, BOX, BOX), PIXEL)
    write_map(tmp_path / "half1.mrc", torch.randn(40, 40, 40), PIXEL)
    write_map(tmp_path / "half2.mrc", torch.randn(40, 40, 40), 1.3 * PIXEL)
    write_map(tmp_path / "other_half1.mrc", torch.randn(40, 40, 40), 1.3 * PIXEL)
    write_map(tmp_path / "other_half2.mrc", torch.randn(40, 40, 40), 1.3 * PIXEL)
    maps = [folder / "particles.star", "--diameter", DIAMETER, "--half1"]
    for words, fit, said in (
        ([run], "defocus,coma", "'coma' cannot be fitted; choose from defocus"),
        ([run], ",", "names nothing"),
        ([run, "--finest", 40], "tilt", "must be less than --coarsest"),
        ([run, "--finest", 25], "tilt", "too few shells"),
        ([run, "--half1", folder / "half1.mrc"], "tilt", "has its own"),
        ([run, "--cs", 2.7], "cs", "--cs 2.7: " + str(run) + " has its own"),
        ([run, "--invert-contrast"], "tilt", "has its own"),
        ([run, "--data-dir", folder / "none"], "tilt", "no such folder"),
        ([folder / "particles.star", "--strip-prefix", "J1"], "tilt", "belongs to a cryoSPARC"),
        ([*imaged.star_words, "--ctf-premultiplied"], "tilt", "are premultiplied"),
        ([folder / "particles.star"], "tilt", "needs --half1 and --diameter"),
        ([folder], "tilt", "has no settings.toml"),
        ([unfinished], "tilt", "has not finished"),
        ([coarse], "tilt", "too few shells"),
        ([coarse, "--finest", 9], "tilt", "agree to"),
        (star("no_poses.star", dropped("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")), "tilt", "no angles"),
        (star("no_halves.star", dropped("rlnRandomSubset")), "tilt", "no half sets"),
        (star("nameless.star", dropped("rlnMicrographName")), "bfactor", "no column rlnMicrographName"),
        (star("alone.star", each_its_own), "astigmatism", "has one particle"),
        ([tmp_path / "flipped.star", *imaged.star_words[1:]], "tilt", "are phase-flipped"),
        ([*maps, tmp_path / "half1.mrc"], "tilt", "but"),
        ([*maps, tmp_path / "other_half1.mrc"], "tilt", "give the half maps of these images"),
        ([*maps, folder / "half1.mrc", "--half2", folder / "half1.mrc"], "tilt", "is the same map"),
        ([run, "--out", run], "tilt", "holds"),
    ):
        out = [] if "--out" in words else ["--out", tmp_path / "out"]
        done = halfmap(["ctf-refine", *words, "--fit", fit, "--threads", 1, *out])
        assert done.status == 2 and said in done.error and done.error.count("\n") == 1, (said, done.error, done.said)
        assert not (tmp_path / "out").exists()


def test_all_values_are_written_where_that_is_asked_and_no_test_is_said_to_have_decided(
    imaged: Imaged, halfmap: Callable, tmp_path: Path
) -> None:
    words = ["ctf-refine", imaged.folder / "run", "--fit", "trefoil", "--threads", 1, "--out"]
    kept, forced = halfmap([*words, tmp_path / "kept"]), halfmap([*words, tmp_path / "forced", "--apply", "all"])
    assert kept.status == forced.status == 0, kept.error + forced.error
    assert "not significant" in kept.said and not any(read_star(kept.out / "particles.star").optics[0].odd_zernike)
    assert "as was asked" in forced.said and any(read_star(forced.out / "particles.star").optics[0].odd_zernike)
