"""``halfmap expand`` as a user would run it: poses that show the same image, columns and half sets that stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from halfmap.fourier.band import Band
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels.poses import Samples
from halfmap.particles.star import read_star
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.workflows.expand import expanded_table

BOX = 24
HEAD = """
data_optics

loop_
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
1 300 2.7 0.1 2 24

data_particles

loop_
_rlnImageName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnAngleRotPrior
_rlnAngleTiltPrior
_rlnAnglePsiPrior
_rlnRandomSubset
_labNote
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    angles = random.uniform([-180, 10, -180], [180, 170, 180], (30, 3)).round(4)
    path = tmp_path / "particles.star"
    path.write_text(HEAD + "".join(
        f"{i + 1:06d}@stack.mrcs 1 15000 14000 20 {a[0]} {a[1]} {a[2]} {i * 0.1:.2f} -1.5 {a[0]} {a[1]} {a[2]} "
        f"{1 + i % 2} word{i}\n" for i, a in enumerate(angles)))
    return path


def test_columns_and_half_sets_stay_and_every_row_says_where_it_comes_from(star, halfmap, tmp_path) -> None:
    done = halfmap(["expand", star, "--symmetry", "d2", "--out", tmp_path / "expanded.star"])
    assert done.status == 0 and done.error == ""
    before, after = (starfile.read(path)["particles"] for path in (star, tmp_path / "expanded.star"))
    assert len(after) == 4 * len(before)
    origin = after["halfmapOriginalRow"].to_numpy() - 1
    assert (origin == np.repeat(np.arange(len(before)), 4)).all()
    for label in set(before) - {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnAngleRotPrior", "rlnAngleTiltPrior",
                                "rlnAnglePsiPrior"}:
        assert list(after[label]) == list(before[label].to_numpy()[origin]), label
    # The first of each is the image as it was; priors are those of its own pose.
    for name in ("Rot", "Tilt", "Psi"):
        assert np.allclose(after[f"rlnAngle{name}"][::4], before[f"rlnAngle{name}"], atol=1e-5)
        assert np.allclose(after[f"rlnAngle{name}Prior"], after[f"rlnAngle{name}"], atol=1e-5)
    assert "half sets of 60 and 60" in done.said and "local" in done.said


def test_images_of_a_symmetrical_particle_are_the_same_at_all_their_poses(star, blobs) -> None:
    for name in ("C3", "T"):
        group, one = symmetry_group(name), blobs(BOX, count=4)
        centre = torch.cat([one.centre @ g.T for g in group])
        whole = type(one)(BOX, centre, one.width.repeat(len(group)), one.weight.repeat(len(group)))
        table = expanded_table(read_star(star), group)
        kxy = Band.to_shell(BOX, 9).kxy
        seen = whole.images(kxy, table.rotations, -table.origins / 2).unflatten(0, (-1, len(group)))
        torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), rtol=0, atol=1e-9 * float(seen.abs().max()))


def test_the_expanded_set_reconstructs_a_symmetrical_particle_without_symmetry(star, blobs) -> None:
    group, one = symmetry_group("C4"), blobs(BOX, count=3, spread=0.1)
    whole = type(one)(BOX, torch.cat([one.centre @ g.T for g in group]), one.width.repeat(4), one.weight.repeat(4))
    few = read_star(star).select(range(8))  # too few views for themselves
    maps = []
    for table in (few, expanded_table(few, group)):
        band = Band.to_shell(BOX, 10)
        values = whole.images(band.kxy, table.rotations, 0 * table.origins).to(torch.complex64)
        sums = Backprojection.zeros(BOX, 2, 10, torch.zeros(())).with_core()
        every = torch.arange(len(table))
        mass = torch.ones(len(table))
        samples = Samples(every, table.rotations, 0 * table.origins, mass)
        sums.insert_(values, torch.ones_like(values.real), band.kxy.double(), band, samples)
        maps.append(reconstruct(sums.completed_().finished(torch.eye(3, dtype=torch.float64)[None])))
    truth = whole.map()
    inside = truth > 0.05 * truth.max()
    off = [float((v[inside] - truth[inside]).norm() / truth[inside].norm()) for v in maps]
    assert off[1] < 0.05 < off[0]


def test_the_group_of_a_run_is_taken_from_it(star, halfmap, tmp_path) -> None:
    (tmp_path / "settings.toml").write_text('symmetry = "C5"\nclasses = 2\n')
    done = halfmap(["expand", tmp_path, "--out", tmp_path / "expanded.star"])
    assert done.status == 0 and "C5: 5 equivalent poses" in done.said
    assert len(starfile.read(tmp_path / "expanded.star")["particles"]) == 150


@pytest.mark.parametrize(("options", "said"), [
    ((), "give --symmetry"), (("--symmetry", "C1"), "one element"), (("--symmetry", "X"), "unknown"),
    (("--symmetry", "C2", "--out", "particles.star"), "exists already"),
])  # fmt: skip
def test_a_choice_that_cannot_work_is_one_line(star, halfmap, tmp_path, options, said) -> None:
    options = [tmp_path / word if word == "particles.star" else word for word in options]
    done = halfmap(["expand", star, *([] if "--out" in options else ["--out", tmp_path / "e.star"]), *options])
    assert done.status == 2 and said in done.error and done.error.count("\n") == 1
    assert not (tmp_path / "e.star").exists()


def test_a_set_is_not_expanded_twice(star, halfmap: Callable, tmp_path) -> None:
    assert halfmap(["expand", star, "--symmetry", "C4", "--out", tmp_path / "once.star"]).status == 0
    done = halfmap(["expand", tmp_path / "once.star", "--symmetry", "C2", "--out", tmp_path / "twice.star"])
    assert done.status == 2 and "equivalent pose" in done.error and "row 3:" in done.error


def test_a_file_without_angles_says_so(star, halfmap, tmp_path) -> None:
    star.write_text(star.read_text().replace("_rlnAngleRot\n", "_rlnAngleRotOld\n"))
    done = halfmap(["expand", star, "--symmetry", "C4", "--out", tmp_path / "e.star"])
    assert done.status == 2 and "has no angles" in done.error and not (tmp_path / "e.star").exists()
