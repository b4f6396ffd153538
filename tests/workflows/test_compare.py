"""``halfmap compare`` as a user would run it, on small runs of a molecule in closed form: all results are known."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.geometry.rotations import matrix_to_euler
from halfmap.maps.mrc import write_map
from halfmap.report.pages import compare as page

BOX, PIXEL, COUNT = 32, 4.0, 300
TURN, SHIFT = Rotation.from_rotvec(np.radians([6.0, -9.0, 4.0])), (5.0, -3.0, 4.0)
SAME, HERE = Rotation.identity(), (0.0, 0.0, 0.0)
STAR = """data_optics
loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
1 300 2.7 0.1 {pixel} {box}

data_particles
loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnOpticsGroup #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
"""


def molecule(turn: Rotation = SAME, shift: tuple[float, ...] = HERE, box: int = BOX) -> np.ndarray:
    """Thirty Gaussians at turn x + shift (A) as a map [z,y,x], computed without interpolation."""
    random = np.random.default_rng(5)
    centre = turn.apply(random.normal(0, 13.0, (30, 3)).clip(-26, 26)) + np.array(shift)
    axis = (np.arange(box) - box // 2) * PIXEL
    one = [np.exp(-((axis - centre[:, i, None]) ** 2) / (2 * 5.5**2)) for i in range(3)]
    return np.einsum("az,ay,ax->zyx", one[2], one[1], one[0])


@dataclass(frozen=True)
class Kind:
    """How a synthetic run differs from the true molecule in its frame."""

    turn: Rotation = SAME
    shift: tuple[float, ...] = HERE
    noise: float = 0.05
    error: float = 0.0  # of every pose, in degrees
    lost: int = 0  # particles with random poses
    images: range = range(COUNT)


def write_run(folder: Path, kind: Kind, seed: int, regulariser: str = "uniform", finished: bool = True) -> Path:
    """Write the files of a finished refinement."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    signal = molecule(kind.turn, kind.shift)
    for h in (1, 2):
        noisy = signal + kind.noise * random.normal(size=signal.shape)
        write_map(folder / f"half{h}_unfil.mrc", torch.from_numpy(noisy).float(), PIXEL)
    true = Rotation.random(COUNT, rng=np.random.default_rng(9))
    axes = random.normal(size=(COUNT, 3))
    error = Rotation.from_rotvec(np.radians(kind.error) * axes / np.linalg.norm(axes, axis=1)[:, None])
    # R' (turn x + shift) = R x: the images do not depend on the frame.
    refined = (error * true * kind.turn.inv()).as_matrix()
    refined[: kind.lost] = Rotation.random(kind.lost, rng=random).as_matrix() if kind.lost else refined[:0]
    origins = np.random.default_rng(8).normal(0, 3, (COUNT, 2)) + (refined @ np.array(kind.shift))[:, :2]
    angles = matrix_to_euler(torch.from_numpy(refined)).numpy()
    rows = [f"{i + 1:06d}@stack.mrcs 10000 10000 0 1 " + " ".join(f"{v:.6f}" for v in (*angles[i], *origins[i]))
            for i in random.permutation(list(kind.images))]
    (folder / "particles.star").write_text(STAR.format(pixel=PIXEL, box=BOX) + "\n".join(rows) + "\n")
    (folder / "settings.toml").write_text(
        f'regulariser = "{regulariser}"\nparticles = "particles.star"\nmap = "initial.mrc"\ndiameter = 120.0\n'
        f'out = "{folder}"\nseed = {seed}\nan_option_of_another_version = 3\n')
    records = [{"iteration": i, "search": "final" if finished and i == 3 else "local", "cpu_seconds": 10.0 * i,
                "particles": len(kind.images), "crosses": "starting map to 30 A"} for i in (1, 2, 3)]
    (folder / "iterations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = ["halfmap 0.1.0", "command: halfmap refine", *(["finished"] if finished else [])]
    (folder / "log.txt").write_text("".join(f"2026-01-01 10:00:00  {line}\n" for line in lines))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Draw small surfaces, because they take most of the time of a comparison; test_surface.py tests them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "PIXELS", 40)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same particles. Tests must not change them."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "first": Kind(noise=0.25), "better": Kind(noise=0.12, error=2.0, lost=30),
        "turned": Kind(TURN, SHIFT, 0.25, 1.0), "fewer": Kind(noise=0.25, images=range(100, COUNT)),
        "others": Kind(noise=0.25, images=range(0)),
    }  # fmt: skip
    made = {name: write_run(folder / name, kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    (made["others"] / "particles.star").unlink()
    write_map(made["better"] / "theta.mrc", torch.full((BOX,) * 3, 9.0), PIXEL)
    toml = made["better"] / "settings.toml"
    toml.write_text(toml.read_text().replace('"uniform"', '"nonuniform"') + "nu_awf = 2.0\nss_alpha = 0.4\n")
    write_map(folder / "truth.mrc", torch.from_numpy(molecule()).float(), PIXEL)
    return made | {"truth": folder / "truth.mrc"}


def read(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data, dtype=np.float64)


@pytest.fixture(scope="module")
def compared(runs, halfmap, tmp_path_factory):
    """An ordinary comparison of two runs, with the truth."""
    done = halfmap(["compare", runs["first"], runs["better"], "--truth", runs["truth"], "--out",
                    tmp_path_factory.mktemp("out") / "compare"])
    assert done.status == 0, done.error
    return done, json.loads((done.out / "compare.json").read_text())


def test_two_runs_become_a_page_a_figure_maps_and_numbers(compared) -> None:
    done, told = compared
    assert {path.name for path in done.out.iterdir()} == {
        "compare.html", "compare.svg", "compare.json", "mask.mrc", "1_first_sharpened.mrc", "2_better_sharpened.mrc",
        "1_first_local_resolution.mrc", "2_better_local_resolution.mrc"}
    first, better = told["runs"]
    for kind in ("unmasked", "corrected"):
        assert better["resolution_A"][kind]["0.5"] < first["resolution_A"][kind]["0.5"]
    assert better["truth_resolution_A"] < first["truth_resolution_A"]
    assert first["cpu_seconds"] == 60 and first["iterations"] == 3 and first["particles"] == COUNT
    assert "better" in done.said and "Finished" in done.said
    names = {row["name"]: row["values"] for row in told["settings"]}
    assert names["regulariser"] == ["uniform", "nonuniform"] and names["seed"] == ["0", "1"] and "out" not in names
    # Options of a regulariser that neither run used are left out.
    assert names["nu_awf"] == ["3 wavelengths", "2 wavelengths"] and "ss_alpha" not in names


def test_pose_differences_are_those_that_were_planted(compared) -> None:
    """The rows of the two runs are in different order, so only image names match them."""
    poses = compared[1]["runs"][1]["poses"]
    assert poses["common"] == COUNT and poses["only_first"] == poses["only_here"] == 0
    assert poses["angle_median_deg"] == pytest.approx(2.0, abs=0.1)
    # Hardly one of 30 random orientations lies within 10 degrees of the true one.
    assert poses["share_above_10_deg"] == pytest.approx(30 / COUNT, abs=0.005)
    histogram = poses["angle_histogram"]
    assert sum(histogram["particles"]) + histogram["beyond"] == COUNT
    # All particles that agree lie in the bins around 2 degrees.
    bins = np.array(histogram["particles"])
    near = bins[int(1.5 / histogram["to"] * len(bins)) : int(3.0 / histogram["to"] * len(bins)) + 1]
    assert near.sum() >= 270


def test_maps_are_shown_on_one_b_factor_and_enclose_one_volume(compared) -> None:
    done, told = compared
    mask = read(done.out / "mask.mrc")
    for i, run in enumerate(told["runs"], start=1):
        volume = (read(done.out / f"{i}_{run['name']}_sharpened.mrc") * mask >= run["surface_level"]).sum() * PIXEL**3
        assert volume == pytest.approx(told["enclosed_volume_A3"], abs=2 * PIXEL**3)
    own = [run["bfactor_A2"] for run in told["runs"] if run["bfactor_A2"] is not None]
    assert told["bfactor_applied_A2"] == pytest.approx(min(0.0, np.mean(own)) if own else 0.0)


def test_the_figure_is_whole_and_draws_every_curve(compared) -> None:
    done = compared[0]
    root = ElementTree.parse(done.out / "compare.svg").getroot()
    texts = " ".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
    for word in ("first", "better", "local resolution", "Orientation differences", "with the truth", "90°"):
        assert word in texts
    images = list(root.iter("{http://www.w3.org/2000/svg}image"))
    # Two views and three slices of each run are embedded in the file.
    assert len(images) == 10 and all(image.get("href", "").startswith("data:image/png") for image in images)
    width, height = (float(root.get(side)) for side in ("width", "height"))
    for image in images:
        assert 0 <= float(image.get("x")) and float(image.get("x")) + float(image.get("width")) <= width
        assert float(image.get("y")) + float(image.get("height")) <= height


def test_the_page_stands_alone_and_says_what_was_found(compared) -> None:
    done, told = compared
    html = (done.out / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|https://doi)', html)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<(style|script).*?</\1>", " ", html, flags=re.S)))
    corrected = told["runs"][1]["resolution_A"]["corrected"]["0.143"]
    for words in ("no proof of a better map", "Local cut-off of better", f"{corrected:.2f}", "What was set differently",
                  "10.1038/s41592-020-00990-8", f"volume #2 level {told['runs'][1]['surface_level']:.4g}"):
        assert words in html if words.startswith("10.") else words in text
    assert told["command"] in text.replace("&#39;", "'")


def test_a_run_in_another_frame_is_brought_back_to_the_first(runs, halfmap, tmp_path) -> None:
    done = halfmap(["compare", runs["first"], runs["turned"], "--truth", runs["truth"], "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    first, turned = json.loads((done.out / "compare.json").read_text())["runs"]
    assert turned["moved"] and turned["frame_deg"] == pytest.approx(np.degrees(TURN.magnitude()), abs=0.2)
    assert turned["frame_A"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.2) and "was turned by" in done.said
    assert turned["poses"]["angle_median_deg"] == pytest.approx(1.0, abs=0.1)
    assert turned["poses"]["shift_median_A"] < 0.3
    # Both runs have the same noise, so the turned map is as good: the comparison itself loses nothing.
    assert turned["truth_resolution_A"] == pytest.approx(first["truth_resolution_A"], rel=0.08)
    here, there = (read(done.out / name)[4:-4, 4:-4, 4:-4] for name in
                   ("1_first_sharpened.mrc", "2_turned_sharpened.mrc"))
    apart = molecule(TURN, SHIFT)[4:-4, 4:-4, 4:-4]
    known = molecule()[4:-4, 4:-4, 4:-4]
    correlation = np.corrcoef([v.ravel() for v in (here, there, known, apart)])
    assert correlation[1, 2] > 0.9 * correlation[0, 2] and correlation[1, 3] < 0.9 * correlation[1, 2]


def test_runs_in_one_frame_are_left_alone(compared) -> None:
    assert not any(run["moved"] for run in compared[1]["runs"])


def test_other_particles_and_unfinished_runs_are_compared_with_a_word_on_it(runs, halfmap, tmp_path) -> None:
    unfinished = write_run(tmp_path / "unfinished", Kind(noise=0.25), 7, finished=False)
    done = halfmap(["compare", runs["first"], runs["fewer"], runs["others"], unfinished, "--volume", 60000, "--bfactor",
                    -50, "--mask", _mask(tmp_path), "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = json.loads((done.out / "compare.json").read_text())
    assert told["runs"][1]["poses"]["common"] == COUNT - 100 and told["runs"][1]["poses"]["only_first"] == 100
    assert told["runs"][2]["poses"] is None and told["truth"] is None
    said = [(note["run"], note["text"]) for note in told["notes"]]
    assert ("fewer", "200 particles are in both runs and compared; 100 are in first alone, 0 here alone") in said
    assert any(run == "others" and "poses are not compared" in text for run, text in said)
    assert any(run == "unfinished" and "not finished" in text for run, text in said)
    assert told["bfactor_applied_A2"] == -50 and told["enclosed_volume_A3"] == 60000
    assert (tmp_path / "out" / "compare.html").exists()
    for i, run in ((1, runs["first"]), (4, unfinished)):
        mean = (read(run / "half1_unfil.mrc") + read(run / "half2_unfil.mrc")) / 2
        gain = np.abs(np.fft.fftn(read(tmp_path / "out" / f"{i}_{run.name}_sharpened.mrc")) / np.fft.fftn(mean))[0, 0]
        for shell in (3, 6):  # on an axis, where the shell is the frequency
            f = told["runs"][i - 1]["fsc"]["corrected"][shell]
            known = np.exp(50 / 4 * (shell / (BOX * PIXEL)) ** 2) * np.sqrt(2 * f / (1 + f))
            assert gain[shell] == pytest.approx(known, rel=1e-3)


def _mask(folder: Path) -> Path:
    z, y, x = np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")
    write_map(folder / "ball.mrc", torch.from_numpy(np.clip(13 - np.sqrt(x**2 + y**2 + z**2), 0, 1)).float(), PIXEL)
    return folder / "ball.mrc"


def test_a_lost_run_is_not_laid_on_the_other(runs, halfmap, tmp_path) -> None:
    lost = write_run(tmp_path / "lost", Kind(noise=0.25, lost=COUNT), 11)
    done = halfmap(["compare", runs["first"], lost, "--out", tmp_path / "out"])
    assert done.status == 0, done.error
    told = json.loads((done.out / "compare.json").read_text())
    assert not told["runs"][1]["moved"] and "shares no frame with first" in done.said
    assert told["runs"][1]["poses"]["share_above_10_deg"] > 0.8


def test_results_go_into_the_first_run_and_never_over_others(runs, halfmap, tmp_path) -> None:
    copy = Path(shutil.copytree(runs["first"], tmp_path / "copy"))
    (copy / "compare").mkdir()
    (copy / "compare" / "compare.html").write_text("an earlier one")
    done = halfmap(["compare", copy, runs["better"], "--out", copy / "compare"])
    assert done.status == 2 and "name a new folder" in done.error
    assert (copy / "compare" / "compare.html").read_text() == "an earlier one"


def test_runs_that_cannot_be_compared_are_named_with_a_remedy(runs, halfmap, tmp_path) -> None:
    larger = Path(shutil.copytree(runs["first"], tmp_path / "larger"))
    for h in (1, 2):
        write_map(larger / f"half{h}_unfil.mrc", torch.from_numpy(molecule(box=40)).float(), PIXEL)
    bare = tmp_path / "bare"
    bare.mkdir()
    broken = Path(shutil.copytree(runs["first"], tmp_path / "broken"))
    (broken / "settings.toml").write_text("regulariser = ")
    damaged = Path(shutil.copytree(runs["first"], tmp_path / "damaged"))
    (damaged / "iterations.jsonl").write_bytes(b'{"iteration": 1}\n{"iteration": 2, "search": "loc\xff')
    odd = tmp_path / "odd.mrc"
    write_map(odd, torch.from_numpy(molecule(box=40)).float(), PIXEL)
    first = runs["first"]
    for words, complaint in (
        ([first], "one run alone cannot be compared; give the folders of two or more"),
        ([first, first], "given twice"),
        ([first, "nowhere"], "no such folder"),
        ([first, bare], "has no half1_unfil.mrc; give the folder of a refinement"),
        ([first, larger], f"box 40 of 4 A, but {first} has box 32 of 4 A; compare runs of the same images"),
        ([first, broken], "settings.toml: not a TOML file"),
        ([first, damaged], "iterations.jsonl: line 2 is not the record of an iteration; mend or remove the line"),
        ([first, runs["better"], "--mask", tmp_path / "none.mrc"], "no such file"),
        ([first, runs["better"], "--truth", odd], "box 40"),
        ([first, runs["better"], "--volume", -3], "must be more than 0 A^3"),
    ):
        done = halfmap(["compare", *words, "--out", tmp_path / "out"])
        assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1, done.error
        assert not done.out.exists()
