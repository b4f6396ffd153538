"""``halfmap.Run`` reads what other programs read in a run's folder, and a refinement from Python is that of a shell."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import torch

import halfmap

DIAMETER = 156.0  # A, of the data set of tests/fixtures/projects.py


def same_run(one: Path, other: Path) -> None:
    """Maps, poses and curves of two runs are the same to the bit."""
    for name in ("map", "half1_unfil", "half2_unfil", "mask"):
        with mrcfile.open(one / f"{name}.mrc") as first, mrcfile.open(other / f"{name}.mrc") as second:
            np.testing.assert_array_equal(first.data, second.data)
    assert (one / "particles.star").read_text() == (other / "particles.star").read_text()
    assert (one / "fsc.xml").read_text() == (other / "fsc.xml").read_text()


def test_arrays_and_tables_are_what_other_readers_find(refined: Any) -> None:
    run = halfmap.Run(refined.out)
    for name, values in (("map", run.map), ("half1_unfil", run.half1), ("half2_unfil", run.half2), ("mask", run.mask)):
        with mrcfile.open(refined.out / f"{name}.mrc") as file:
            np.testing.assert_array_equal(file.data, values)
            assert run.voxel_size == pytest.approx(float(file.voxel_size.x))
            assert run.maps.voxel_size(name) == pytest.approx(float(file.voxel_size.x))
    assert run.theta is not None and "theta" in run.maps
    assert set(run.maps) == {path.stem for path in refined.out.glob("*.mrc")}
    tables = starfile.read(refined.out / "particles.star", always_dict=True)
    assert list(run.particles) == list(tables["particles"].columns)
    assert run.particles.count == len(tables["particles"]) == 200
    for name, values in run.particles.items():
        np.testing.assert_array_equal(values, tables["particles"][name].to_numpy(dtype=values.dtype))
    assert set(run.particles.optics) == set(tables["optics"].columns)


def test_records_settings_and_curves_are_those_of_the_files(refined: Any) -> None:
    run, records = halfmap.Run(refined.out), refined.records
    assert len(run.iterations) == len(records) and run.iterations[-1] == records[-1]
    np.testing.assert_array_equal(run.iterations["resolution_A"], [record["resolution_A"] for record in records])
    assert list(run.iterations["search"]) == [record["search"] for record in records]
    with pytest.raises(KeyError):
        run.iterations["nothing"]
    assert run.settings == tomllib.loads((refined.out / "settings.toml").read_text())
    assert run.resolution == records[-1]["resolution_A"]
    assert run.finished and "finished" in run.log
    np.testing.assert_array_equal(run.curves.corrected, records[-1]["fsc_corrected"])
    np.testing.assert_allclose(run.curves.unmasked, halfmap.fsc(run.half1, run.half2, voxel_size=run.voxel_size)
                               .unmasked, atol=2e-6)
    assert [finding.name for finding in run.findings] == [one["name"] for one in records[-1]["findings"]]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(halfmap.InputError, match=str(path)):
            halfmap.Run(path)


def test_what_a_start_left_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("# Settings of halfmap start, version 0.1.0.\n")
    with pytest.raises(halfmap.InputError, match="holds starting maps, not a refinement"):
        halfmap.Run(tmp_path)


def test_a_notebook_gets_text_and_no_markup_from_names(refined: Any, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(refined.out, tmp_path / "<script>alert(1)<"))
    run = halfmap.Run(odd)
    html = run._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert f"{run.resolution:.2f}" in html and html.count("<img") == 3 and len(html) < 300_000
    listed = halfmap.Results(odd)._repr_html_() + run.particles._repr_html_()
    assert "<script" not in listed


@pytest.fixture
def few(dataset: Path) -> dict[str, Any]:
    """The settings of the fixture `brief`."""
    return {"particles": dataset / "particles.star", "map": dataset / "initial.mrc", "diameter": DIAMETER,
            "max_iterations": 3, "threads": 1}


def test_a_refinement_from_python_is_that_of_the_command_line_and_says_nothing(
    brief: Any, few: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[halfmap.ProgressUpdate] = []
    threads = torch.get_num_threads()
    run = halfmap.refine(**few, out=tmp_path / "run", progress=seen.append)
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert isinstance(run, halfmap.Run) and run.path == tmp_path / "run"
    same_run(run.path, brief.out)
    assert run.iterations[-1]["fsc"] == brief.records[-1]["fsc"]
    iterations = [one for one in seen if one.iteration]
    assert {one.iteration for one in iterations} == set(run.iterations["iteration"])
    for number in range(1, len(run.iterations) + 1):
        fractions = [one.fraction for one in iterations if one.iteration == number]
        assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert iterations[-1].stage == "final"
    assert iterations[-1].resolution == pytest.approx(run.resolution, abs=1e-5)
    with pytest.raises(halfmap.InputError, match=r"^out=.*holds a run already"):
        halfmap.refine(**few, out=tmp_path / "run")
    assert halfmap.resume(run).path == run.path  # there is nothing to do


class Enough(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_what_a_callback_raises_stops_the_run_and_resume_gives_the_same_bits(
    fraction: float, brief: Any, few: dict[str, Any], tmp_path: Path
) -> None:
    def stop(update: halfmap.ProgressUpdate) -> None:
        if update.iteration == 2 and update.fraction >= fraction:
            raise Enough

    with pytest.raises(Enough):
        halfmap.refine(**few, out=tmp_path / "run", batch=50, progress=stop)
    left = halfmap.Run(tmp_path / "run")
    assert not left.finished and (left.path / "checkpoint" / "state").is_file()
    done = halfmap.resume(left)
    assert done.finished
    whole = halfmap.refine(**few, out=tmp_path / "whole", batch=50)
    same_run(done.path, whole.path)


def test_a_run_of_two_processes_stops_and_goes_on_and_leaves_the_program_as_it_was(
    few: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(update: halfmap.ProgressUpdate) -> None:
        if update.iteration == 2:
            raise Enough

    before = signal.getsignal(signal.SIGTERM), dict(os.environ)
    with pytest.raises(Enough):
        halfmap.refine(**few | {"threads": 2}, processes=2, out=tmp_path / "run", progress=stop)
    assert (signal.getsignal(signal.SIGTERM), dict(os.environ)) == before
    assert capfd.readouterr() == ("", "")  # of the other process neither
    done = halfmap.resume(tmp_path / "run", processes=1)
    assert done.finished and [one for one in done.log.splitlines() if "2 processes" in one]


def test_two_dimensional_classes_go_on_when_the_call_is_repeated(few: dict[str, Any], tmp_path: Path) -> None:
    given = {"particles": few["particles"], "diameter": DIAMETER, "classes": 3, "iterations": 5, "threads": 1}
    stages: list[str] = []

    def stop(update: halfmap.ProgressUpdate) -> None:
        stages.append(update.stage)
        if update.stage == "iteration 3 of 5":
            raise Enough

    with pytest.raises(Enough):
        halfmap.classes2d(**given, out=tmp_path / "stopped", progress=stop)
    stages.clear()
    done = halfmap.classes2d(**given, out=tmp_path / "stopped", progress=lambda update: stages.append(update.stage))
    assert "iteration 3 of 5" in stages and "iteration 2 of 5" not in stages
    whole = halfmap.classes2d(**given, out=tmp_path / "whole")
    np.testing.assert_array_equal(done.particles["rlnClassNumber"], whole.particles["rlnClassNumber"])
    assert (done.path / "classes.mrcs").read_bytes() == (whole.path / "classes.mrcs").read_bytes()


def test_commands_that_follow_take_a_run_and_give_what_they_wrote(
    refined: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = halfmap.Run(refined.out)
    chosen = halfmap.select(run, out=tmp_path / "good.star", max_angle_sd=8.0)
    kept = run.particles["halfmapAngleSd"] <= 8.0
    kept &= run.particles["halfmapParticleProbability"] >= 0.5
    assert chosen.count == kept.sum() > 0
    np.testing.assert_array_equal(chosen["rlnImageName"], run.particles["rlnImageName"][kept])
    sharp = halfmap.postprocess(run, out=tmp_path / "sharp", bfactor=-50.0)
    with mrcfile.open(tmp_path / "sharp" / "map_sharpened.mrc") as file:
        np.testing.assert_array_equal(sharp.maps["map_sharpened"], file.data)
    assert sharp.values == json.loads((tmp_path / "sharp" / "postprocess.json").read_text())
    assert [finding.text for finding in sharp.findings] == sharp.values["verdict"]
    looked = halfmap.inspect(run.particles)
    assert looked.ok and looked.path is None and "particles" in str(looked.values["facts"])
    again = halfmap.audit(run)
    assert again.ok and [finding.name for finding in again.findings] == ["no coordinates"]
    assert run.write_report() == refined.out / "report.html"
    assert capsys.readouterr() == ("", "")


def test_simulated_images_and_the_copies_among_them(
    molecule: Path, tmp_path: Path, edit_star: Callable[..., Path]
) -> None:
    made = halfmap.simulate(molecule, out=tmp_path / "made", n=20, box=32, apix=5.0, seed=4)
    assert made.particles.count == 20 and set(made.maps) == {"initial", "truth"}

    def twice(tables: dict[str, Any]) -> None:
        tables["particles"].loc[7] = tables["particles"].loc[3]

    doubled = edit_star(made.path / "particles.star", made.path / "doubled.star", twice)
    found = halfmap.audit(doubled)
    assert not found.ok and found.findings[0].level == "warning"
    assert isinstance(found.findings[0], halfmap.Finding)
