"""``halfmap reslog`` as a user would run it, on small simulated runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.validation.fsc import fsc
from halfmap.workflows import fixed_poses
from halfmap.workflows.fixed_poses import FixedRun, random_orders, read_fixed_run, subsets

Halfmap = Callable[..., Any]


@pytest.fixture(scope="module")
def run(refine, simulated) -> Path:
    """A refinement of 200 noisy particles with every image at its best pose. Tests must not change it."""
    done = refine(simulated(snr=0.12), "--max-iterations", 8, "--posterior", "best")
    assert done.status == 0, done.error
    return Path(done.out)


@pytest.fixture(scope="module")
def fixed(run) -> FixedRun:
    return read_fixed_run(run, None)


def told(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "reslog.json").read_text()))


def words(page: Path) -> str:
    text = re.sub(r"<(style|script).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text))


def test_all_particles_at_the_run_s_poses_give_the_run_s_own_half_maps(fixed) -> None:
    last = list(subsets(fixed, 2, 4, seed=0))[-1]
    assert (last.level, last.count) == (0, 200)
    shells = slice(1, int(0.8 * fixed.limit))
    own, again = (fsc(*pair)[shells] for pair in ((fixed.own.half1, fixed.own.half2), (last.half1, last.half2)))
    # Only the contrasts of the groups and the rounding of the file differ.
    assert float((own - again).abs().max()) < 0.03
    if last.half1.shape == fixed.own.half1.shape:
        assert float(fsc(fixed.own.half1, last.half1)[shells].min()) > 0.99


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_every_subset_is_what_its_own_particles_give_and_each_image_is_read_once(fixed, draws, monkeypatch) -> None:
    read: list[int] = []
    seen = list(subsets(fixed, 3, draws, seed=5, advance=read.append))
    assert sum(read) == 200
    assert sorted((s.level, s.draw) for s in seen) == [
        (level, d) for level in range(4) for d in range(min(draws, 2**level))]
    orders = [order.numpy() for order in random_orders(fixed.source.table, 5)]
    size = len(orders[0])
    for subset in seen:
        if (subset.level, subset.draw) not in ((0, 0), (1, min(draws, 2) - 1), (2, draws - 1), (3, 0)):
            continue
        # the d-th part of each order, halved from its front, without the code under test
        width = min(draws, 2**subset.level)
        parts = [order[subset.draw * len(order) // width:][:round(len(order) / 2**subset.level)] for order in orders]
        assert abs(subset.count - sum(map(len, parts))) <= 2 and size > 8
        if subset.count != sum(map(len, parts)):
            continue
        for members, half in zip(parts, (subset.half1, subset.half2), strict=True):
            whole = Backprojection.zeros(fixed.model.box, fixed.model.padding, fixed.limit, torch.zeros(()))
            fixed_poses.insert_(whole, fixed, torch.from_numpy(np.sort(members)), lambda n: None)
            box = fixed.grid.box
            direct = reconstruct(whole.coarser(fixed.limit, box).finished(fixed.model.symmetry))
            assert float((direct - half).norm() / direct.norm()) < 1e-3


def test_curves_of_two_runs_are_measured_fitted_and_drawn(run, refined, halfmap, tmp_path) -> None:
    done = halfmap(["reslog", run, refined.out, "--smallest", 25, "--repeats", 2, "--threads", 1,
                    "--out", tmp_path / "o"])
    assert done.status == 0, done.error
    assert {path.name for path in done.out.iterdir()} == {"reslog.json", "reslog.html", "reslog.svg"}
    found = told(done.out)
    assert found["poses"] == "fixed" and "optimistic" in found["caution"]
    compared: list[Path] = []
    for one, folder in zip(found["curves"], (run, refined.out), strict=True):
        assert one["folder"] == str(folder) and one["particles"] == 200
        points, left_out = one["unmasked"]["points"], one["unmasked"]["left_out"]
        kept = [p["particles"] for p in points]
        assert set(kept) | set(left_out) == {24, 50, 100, 200}  # a quarter of 50 is 12
        assert [len(p["draws_A"]) for p in points] == [1 if n == 200 else 2 for n in kept]
        assert points[-1]["inverse_square"] > points[0]["inverse_square"]
        last = json.loads((folder / "iterations.jsonl").read_text().splitlines()[-1])
        if last["resolution_A"] < last["inserted_A"]:  # the run's maps agree in every shell that they have
            assert one["own_resolution_A"]["unmasked"] is None and 200 in left_out
            assert "200 particles are left out" in done.said
        else:
            assert one["own_resolution_A"]["unmasked"] == pytest.approx(last["resolution_A"], rel=1e-3)
            if 200 in kept:  # where the run's FSC grazes 0.143 at the end, that of fixed poses may stay above it
                assert points[-1]["resolution_A"] == pytest.approx(last["resolution_A"], rel=0.03)
                compared.append(folder)
        line = one["unmasked"]["line"]
        if line is not None and line["bfactor_A2"]:
            assert line["bfactor_A2"] == pytest.approx(2 / line["slope"])
    assert compared
    assert "optimistic" in done.said and "Finished" in done.said
    picture = ElementTree.parse(done.out / "reslog.svg").getroot()
    assert picture.tag.endswith("svg")
    text = words(done.out / "reslog.html")
    assert "measure the data, not the method" in text and "10.1016/j.jsb.2013.12.010" in text
    assert f"halfmap reslog {run} {refined.out} --smallest 25 --repeats 2 --threads 1 --out {done.out}" in text
    page = (done.out / "reslog.html").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"https://doi.org|http://www.w3.org/2000/svg", "", page)


@pytest.fixture(scope="module")
def subsets_refined(brief, halfmap, tmp_path_factory) -> Any:
    """Subsets of a short run, refined anew with two methods."""
    out = tmp_path_factory.mktemp("reslog") / "refined"
    done = halfmap(["reslog", brief.out, "--refine", "--regulariser", "nonuniform", "--regulariser", "cutoff",
                    "--smallest", 50, "--threads", 1, "--out", out])
    assert done.status == 0, done.error
    return done


def test_subsets_are_refined_from_the_run_s_start_and_settings(subsets_refined, brief) -> None:
    out = subsets_refined.out
    assert {path.name for path in out.iterdir()} == {"50", "100", "200", "reslog.json", "reslog.html", "reslog.svg"}
    assert {path.name for path in (out / "200").iterdir()} == {"particles.star", "cutoff"}  # nonuniform is the run
    small = (out / "50" / "cutoff" / "settings.toml").read_text()
    given = (brief.out / "settings.toml").read_text()
    for name in ("map", "diameter", "seed", "max_iterations"):
        line = re.search(rf"^{name} = .*$", given, re.M)
        assert line and line[0] in small
    assert 'regulariser = "cutoff"' in small and (out / "50" / "cutoff" / "report.html").exists()
    found = told(out)
    assert found["poses"] == "refined" and [one["name"] for one in found["curves"]] == ["nonuniform", "cutoff"]
    uniform = found["curves"][0]["unmasked"]
    assert {p["particles"] for p in uniform["points"]} | set(uniform["left_out"]) == {50, 100, 200}
    last = json.loads((brief.out / "iterations.jsonl").read_text().splitlines()[-1])
    assert uniform["points"][-1]["resolution_A"] == pytest.approx(last["resolution_A"], rel=1e-3)


def test_the_same_command_does_not_refine_again_and_other_subsets_are_refused(
    subsets_refined, brief, halfmap, tmp_path
) -> None:
    out = Path(shutil.copytree(subsets_refined.out, tmp_path / "refined"))
    before = told(out)
    moved = {path: path.read_text().replace(str(subsets_refined.out), str(out)) for path in out.rglob("settings.toml")}
    for path, text in moved.items():
        path.write_text(text)
    cut = out / "100" / "cutoff"  # as if stopped before its end
    (cut / "iterations.jsonl").write_text("\n".join((cut / "iterations.jsonl").read_text().splitlines()[:1]) + "\n")
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("half1_unfil.mrc")}
    line = ["reslog", brief.out, "--refine", "--regulariser", "nonuniform", "--regulariser", "cutoff", "--smallest", 50,
            "--threads", 1, "--out", out]
    done = halfmap(line)
    assert done.status == 0, done.error
    assert {path for path, at in kept.items() if path.stat().st_mtime_ns != at} == {cut / "half1_unfil.mrc"}
    for a, b in zip(before["curves"], told(out)["curves"], strict=True):
        assert [p["resolution_A"] for p in a["unmasked"]["points"]] == pytest.approx(
            [p["resolution_A"] for p in b["unmasked"]["points"]], rel=1e-6)
    other = halfmap([*line, "--seed", 9])
    assert other.status == 2 and "holds other particles" in other.error and other.error.count("\n") == 1


@pytest.mark.parametrize(("options", "complaint"), [
    (["--smallest", 100], "a line needs 3; take 50 or fewer"),
    (["--smallest", 5], "--smallest 5: must be at least 16"),
    (["--smallest", 50, "--repeats", 8], "--repeats 8"),
    (["--repeats", 3], "invalid choice: 3"),
    (["--regulariser", "cutoff"], "needs --refine"),
    (["--refine", "--regulariser", "sharp"], "invalid choice: 'sharp'"),
    (["--refine", "--regulariser", "cutoff", "--regulariser", "cutoff"], "named twice"),
    (["--mask", "absent.mrc"], "absent.mrc: no such file"),
])  # fmt: skip
def test_a_wrong_choice_ends_in_one_line_and_nothing_is_written(run, halfmap, tmp_path, options, complaint) -> None:
    done = halfmap(["reslog", run, *options, "--out", tmp_path / "out"])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert not done.out.exists()


def test_wrong_folders_are_named(run, refined, dataset, halfmap, tmp_path) -> None:
    out = tmp_path / "out"
    for runs, complaint in (
        ([], "missing: RUN"), (["nowhere"], "nowhere: no such folder"), ([dataset], f"{dataset}: has no settings.toml"),
        ([run, run], "named twice"), ([run, refined.out, "--refine"], "--refine takes the settings of one run"),
    ):  # fmt: skip
        done = halfmap(["reslog", *runs, "--out", out])
        assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    done = halfmap(["reslog", run, "--out", run])
    assert done.status == 2 and "holds a run already" in done.error
    halted = Path(shutil.copytree(run, tmp_path / "halted"))
    lines = (halted / "iterations.jsonl").read_text().splitlines()
    (halted / "iterations.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    done = halfmap(["reslog", halted, "--out", out])
    assert done.status == 2 and f"{halted}: the refinement has not finished" in done.error
    assert not out.exists()
