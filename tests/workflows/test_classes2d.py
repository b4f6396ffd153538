"""``halfmap classes2d`` as a user would run it, on images of known pictures, read back by other libraries."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from fixtures.jobs import ended, none_left, until

from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.mrc import write_stack
from halfmap.report.pages.classes2d import strong_enough
from halfmap.workflows.classes2d import ClassRow

BOX, PIXEL, EACH, EMPTY = 36, 4.0, 60, 50
STRENGTH = 12.0  # of the signal, over the noise of one pixel: 72 nats, less than a tenth of the image's power
# x, y and width in pixels of the blobs of three pictures, none of which is a turned version of another.
PICTURES = (
    ((-6.0, 0.0, 2.2), (6.0, 0.0, 2.2)),
    ((-6.0, -3.0, 2.0), (3.0, -4.0, 2.0), (5.0, 7.0, 2.0)),
    ((0.0, 0.0, 4.5),),
)
HEAD = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
_rlnImageDimensionality #7
1 300 2.7 0.1 4.0 36 2

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
"""


@dataclass(frozen=True)
class Known:
    """Images of known pictures. kind [b]: 0 to 2, or 3 of noise alone; psi [b] in degrees."""

    star: Path
    kind: np.ndarray
    psi: np.ndarray


def picture(kind: int, psi: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A picture turned by psi (radians; RELION's sense) and moved by (x, y) pixels."""
    axis = np.arange(BOX) - BOX // 2
    made = np.zeros((BOX, BOX))
    for x, y, width in PICTURES[kind]:
        u, v = x * math.cos(psi) + y * math.sin(psi) + shift[0], -x * math.sin(psi) + y * math.cos(psi) + shift[1]
        made += np.exp(-((axis - u) ** 2 + (axis[:, None] - v) ** 2) / (2 * width**2)) / width**2
    return made


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(4)
    kind = np.repeat([0, 1, 2, 3], [EACH, EACH, EACH, EMPTY])[rng.permutation(3 * EACH + EMPTY)]
    psi, defocus = rng.uniform(0, 360, len(kind)), rng.uniform(12_000, 20_000, len(kind))
    optics = OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX)
    u = torch.from_numpy(defocus)
    zero = torch.zeros_like(u)
    k = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(BOX, 1 / BOX)] * 2, indexing="ij")[::-1], dim=-1)
    waves = ctf(k.reshape(-1, 2), optics, Defocus(u, u, zero, zero, zero, torch.ones_like(u))).view(-1, BOX, BOX)
    images = rng.normal(size=(len(kind), BOX, BOX))
    for b, one in enumerate(kind):
        if one < 3:
            seen = picture(one, math.radians(psi[b]), tuple(rng.normal(0, 1, 2)))
            signal = np.fft.ifft2(np.fft.fft2(seen) * waves[b].numpy()).real
            images[b] += STRENGTH * signal / np.linalg.norm(signal)
    write_stack(folder / "stack.mrcs", images.astype(np.float32), PIXEL)
    rows = [f"{b + 1:06d}@stack.mrcs 1 {d:.3f} {d:.3f} 0" for b, d in enumerate(defocus)]
    star = folder / "particles.star"
    star.write_text(HEAD + "\n".join(rows) + "\n")
    return Known(star, kind, psi)


def alike(mean: np.ndarray, kind: int) -> float:
    """The best correlation of a mean with a picture over in-plane turns, in the circle that classes are masked with."""
    axis = np.arange(BOX) - BOX // 2
    inside = np.hypot(axis, axis[:, None]) < 14
    return max(float(np.corrcoef(mean[inside], picture(kind, psi)[inside])[0, 1])
               for psi in np.radians(np.arange(0, 360, 5)))


def test_three_pictures_become_three_classes_and_images_of_noise_belong_to_none(known, halfmap, tmp_path) -> None:
    done = halfmap(["classes2d", known.star, "--diameter", 116, "--classes", 3, "--iterations", 12, "--seed", 1,
                    "--out", tmp_path / "run"])
    assert done.status == 0, done.error
    with mrcfile.open(done.out / "classes.mrcs") as file:
        means = np.array(file.data)
    written = starfile.read(done.out / "particles.star", always_dict=True)["particles"]
    number, present = written["rlnClassNumber"].to_numpy(), written["halfmapParticleProbability"].to_numpy()
    pictures = [int(np.argmax([alike(mean, kind) for kind in range(3)])) for mean in means]
    assert sorted(pictures) == [0, 1, 2]
    assert min(alike(mean, kind) for mean, kind in zip(means, pictures, strict=True)) > 0.9
    held = known.kind < 3
    assert (np.array(pictures)[number - 1] == known.kind)[held].mean() > 0.95
    assert (present[held] > 0.5).mean() > 0.95 and (present[~held] < 0.5).mean() > 0.9
    shares = starfile.read(done.out / "classes.star", always_dict=True)["model_classes"]
    assert list(shares["rlnClassDistribution"]) == sorted(shares["rlnClassDistribution"], reverse=True)

    score = written["rlnLogLikeliContribution"].to_numpy()
    assert np.allclose(shares["halfmapSignal"], [score[number == c].mean() for c in (1, 2, 3)], rtol=1e-4)

    # The angles of the picture of three blobs, up to one turn that they have in common.
    mine = held & (known.kind == 1) & (np.array(pictures)[number - 1] == 1)
    off = np.exp(1j * np.radians(written["rlnAnglePsi"].to_numpy() - known.psi)[mine])
    spread = np.degrees(np.abs(np.angle(off / off.mean())))
    assert np.median(spread) < 8

    kept = [1, 3]
    chosen = halfmap(["select", done.out, "--classes", *kept, "--min-probability", 0, "--out", tmp_path / "good.star"])
    assert chosen.status == 0, chosen.error
    rows = starfile.read(tmp_path / "good.star", always_dict=True)["particles"]
    assert list(rows["rlnImageName"]) == list(written["rlnImageName"][np.isin(number, kept)])
    others = halfmap(["select", done.out, "--classes-not", "1", "3", "--min-probability", 0, "--out",
                      tmp_path / "other.star"])
    rest = starfile.read(tmp_path / "other.star", always_dict=True)["particles"]
    assert others.status == 0 and list(rest["rlnImageName"]) == list(written["rlnImageName"][number == 2])
    page = (done.out / "report.html").read_text()
    assert page.count('type="checkbox"') == 3 and "halfmap select" in page


def test_a_class_with_much_less_signal_than_the_better_images_is_not_offered() -> None:
    rows = [ClassRow(c, images / 400, 12.0, images, images, signal)
            for c, (images, signal) in enumerate([(100, 60.0), (10, 90.0), (150, 50.0), (140, 20.0)], start=1)]
    strong = strong_enough(rows)  # of the stronger 200 images the 100th has a signal of 60 nats
    assert strong == pytest.approx(33) and [row.number for row in rows if row.signal >= strong] == [1, 2, 3]


def test_a_command_that_died_goes_on_to_the_same_bits(known, halfmap, dying, tmp_path) -> None:
    words = ["classes2d", known.star, "--diameter", 116, "--classes", 3, "--iterations", 6, "--threads", 1]
    whole, died = [*words, "--out", tmp_path / "whole"], [*words, "--out", tmp_path / "run"]
    assert halfmap(whole).status == 0
    assert dying.after(4, lambda: halfmap(died))  # it had written how it began, and three iterations
    assert not (tmp_path / "run" / "classes.mrcs").exists()
    for other, said in (([*died, "--seed", 5], "that was stopped, with seed = 0, not 5; give the same command"),
                        (["start", *died[1:3], 116, "--out", tmp_path / "run"], "holds a `halfmap classes2d` that"),
                        (["resume", tmp_path / "run"], "goes on when it is given again")):
        refused = halfmap(other)
        assert refused.status == 2 and said in refused.error and refused.error.count("\n") == 1
    done = halfmap(died)
    assert done.status == 0, done.error
    assert "goes on after iteration 3" in done.said and "iteration  3:" not in done.said
    for name in ("classes.mrcs", "particles.star"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert len((tmp_path / "run" / "iterations.jsonl").read_text().splitlines()) == 6


def alike_to_rounding(one: Path, other: Path) -> bool:
    means = [np.array(mrcfile.read(run / "classes.mrcs")) for run in (one, other)]
    tables = [starfile.read(run / "particles.star", always_dict=True)["particles"] for run in (one, other)]
    return bool(np.abs(means[0] - means[1]).max() < 1e-4 * np.abs(means[0]).max()
                and (tables[0]["rlnClassNumber"] == tables[1]["rlnClassNumber"]).all()
                and np.allclose(tables[0]["rlnAnglePsi"], tables[1]["rlnAnglePsi"])
                and np.allclose(tables[0]["rlnOriginXAngst"], tables[1]["rlnOriginXAngst"], atol=1e-4))


def test_two_processes_find_the_classes_of_one_also_where_each_has_images_of_its_own_microscope(
    known, halfmap, torchrun, in_session, tmp_path
):
    """Images in two frames, so that no process has images of both, and a command that is interrupted goes on alone."""
    table = starfile.read(known.star)
    first, rows = table["optics"], table["particles"]
    second = first.assign(rlnOpticsGroup=2, rlnImagePixelSize=PIXEL * 1.001)
    rows["rlnOpticsGroup"] = np.where(np.arange(len(rows)) < len(rows) // 2, 1, 2)
    star = known.star.parent / "frames.star"
    starfile.write({"optics": pd.concat([first, second]), "particles": rows}, star)
    words = ["classes2d", star, "--diameter", 116, "--classes", 3, "--iterations", 8, "--threads", 1]
    one = halfmap([*words, "--out", tmp_path / "one"])
    assert one.status == 0, one.error

    status, said, errors = ended(torchrun(2, [*words, "--out", tmp_path / "two"]))
    assert status == [0, 0] and errors == ["", ""] and said[1] == "", errors
    assert "2 processes" in said[0] and "230 images into 3 classes" in said[0]
    assert alike_to_rounding(one.out, tmp_path / "two")
    assert {path.name for path in one.out.iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}

    run = tmp_path / "run"
    stopped = in_session("-m", "halfmap", *words[:-2], "--processes", 2, "--threads", 2, "--out", run)
    until((run / "checkpoint" / "course").exists, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    _, error = stopped.communicate(timeout=100)
    assert stopped.returncode == 130 and none_left(stopped.pid), error
    assert "halfmap: interrupted" in error and error.count("\n") == 2 and "given again, goes on" in error
    again = halfmap([*words, "--out", run])
    assert again.status == 0 and "goes on after iteration" in again.said, again.error
    assert alike_to_rounding(one.out, run)


@pytest.mark.parametrize(("words", "said"), [
    (["--classes", 40], "230 images are too few for so many (10 a class are needed); give at most 23"),
    (["--diameter", 200], "--diameter 200: larger than the images (36 px of 4 A, 144 A)"),
    (["--max-resolution", 60], "--max-resolution 60: leaves nothing to see"),
])  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(known, halfmap, tmp_path, words, said) -> None:
    options = {"--diameter": 116, "--classes": 3} | dict([words])
    done = halfmap(["classes2d", known.star, *(w for pair in options.items() for w in pair), "--out", tmp_path / "run"])
    assert done.status == 2 and said in done.error and done.error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_classes_that_are_not_there_and_results_of_another_run_are_refused(known, halfmap, tmp_path) -> None:
    table = starfile.read(known.star)
    table["particles"]["rlnClassNumber"] = known.kind + 1
    starfile.write(table, known.star.parent / "classified.star")
    for words, said in ((["--classes", "9"], "holds no class 9; its classes are 1 to 4"),
                        (["--classes", "1", "x"], "'x' is no class"), (["--classes", "3-1"], "'3-1' is no class"),
                        (["--classes", "1", "--classes-not", "2"], "give one of them")):
        done = halfmap(["select", known.star.parent / "classified.star", *words, "--out", tmp_path / "good.star"])
        assert done.status == 2 and said in done.error and done.error.count("\n") == 1
    # Another program's classes say nothing of probabilities, and none is asked for.
    done = halfmap(["select", known.star.parent / "classified.star", "--classes", "1-2,4", "--out",
                    tmp_path / "good.star"])
    assert done.status == 0 and f"{2 * EACH + EMPTY} of 230 remain" in done.said
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "classes.star").write_text("")
    done = halfmap(["classes2d", known.star, "--diameter", 116, "--classes", 3, "--out", tmp_path / "taken"])
    assert done.status == 2 and "holds classes.star" in done.error
    (tmp_path / "taken" / "settings.toml").write_text("")
    for command in ("report", "inspect"):  # the page of a refinement would take the place of that of the classes
        done = halfmap([command, tmp_path / "taken"])
        assert done.status == 2 and "holds two-dimensional classes, not a refinement" in done.error
