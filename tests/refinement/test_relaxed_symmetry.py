"""``--relax-symmetry``: particles that nearly have a point group find the right one of the poses it makes alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.expectation.posterior import Poses
from halfmap.expectation.priors import ShiftPrior, log_peak
from halfmap.expectation.search import Reference, Sampling, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.geometry.symmetry import coset_representatives, symmetry_group
from halfmap.imaging.density import Cloud
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import PosePrior
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import StackWriter, write_map
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import with_poses
from halfmap.refinement.input_prior import Moves
from halfmap.refinement.preflight import Reference as StartingMap
from halfmap.refinement.refine import refine
from halfmap.refinement.relaxed_symmetry import alike_at_start
from halfmap.settings.refine import RefineSettings, validated
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation import simulate as simulation
from halfmap.simulation.specimen import Specimen

BOX, PIXEL, COUNT = 40, 4.0, 120
GROUP = symmetry_group("C4")


@pytest.mark.parametrize(("name", "kept"), [("C4", "C1"), ("C4", "C2"), ("D4", "C4"), ("O", "D2"), ("I2", "T")])
def test_mates_times_the_symmetry_that_is_kept_are_the_whole_group_once(name: str, kept: str) -> None:
    group, symmetry = symmetry_group(name), symmetry_group(kept)
    if name == "I2":  # RELION's T stands otherwise: turn it onto the two-folds of I2
        symmetry = group[[i for i, g in enumerate(group) if float((g.abs().round() - g.abs()).abs().max()) < 1e-9]]
    mates = coset_representatives(group, symmetry)
    assert len(mates) * len(symmetry) == len(group) and torch.equal(mates[0], torch.eye(3, dtype=torch.float64))
    products = (mates[:, None] @ symmetry).flatten(0, 1)
    gaps = (products[:, None] - group).abs().amax((-1, -2))
    assert bool(((gaps < 1e-9).sum(dim=0) == 1).all())


def test_a_group_that_lacks_what_the_map_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="subgroup"):
        coset_representatives(symmetry_group("C4"), symmetry_group("C3"))


@dataclass(frozen=True)
class PseudoSymmetric:
    """A folder with images of four equal arms and a lump on one of them, at poses that know the arm by chance only.

    rotations [b, 3, 3]: the true ones; given [b]: whether a pose in the file is the right one of its mates.
    """

    folder: Path
    rotations: torch.Tensor
    given: np.ndarray

    def right(self, run: Path) -> float:
        """Share of particles within 15 degrees of the truth."""
        found = read_star(run / "particles.star").rotations.numpy()
        between = Rotation.from_matrix(found @ self.rotations.numpy().transpose(0, 2, 1))
        return float((np.degrees(between.magnitude()) < 15).mean())


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> PseudoSymmetric:
    folder, random = tmp_path_factory.mktemp("arms"), np.random.default_rng(0)
    arm = random.normal(size=(120, 3)) * [9, 9, 16] + [28, 0, 5]
    lump = random.normal(size=(25, 3)) * 6 + [34, 0, -26]
    copies = [arm @ Rotation.from_euler("z", 90 * i, degrees=True).as_matrix().T for i in range(4)]
    xyz = torch.from_numpy(np.concatenate([*copies, lump])).float()
    one = Specimen(Cloud(xyz, torch.ones(len(xyz), 1), torch.full((len(xyz), 1), 0.5 / 3.0**2)), (), None)
    settings = SimulateSettings(model=Path("none"), out=folder, n=COUNT, box=BOX, apix=PIXEL, snr=0.4, seed=2)
    draw = simulation.draw_particles(settings)
    every = torch.arange(COUNT)
    signal = torch.cat([simulation.signal_images(settings, one, draw, index) for index in every.split(64)])
    gain = math.sqrt(settings.snr / float(signal.var()))
    with StackWriter(folder / "particles.mrcs", COUNT, BOX, PIXEL) as writer:
        writer.write(gain * signal + simulation.noise_images(settings, every))
    mate = random.integers(0, 4, COUNT)
    table = simulation._table(settings, draw, Path("particles.mrcs"))
    write_star(folder / "particles.star", with_poses(table, draw.rotations @ GROUP[mate], -draw.shifts))
    write_map(folder / "map.mrc", simulation._map_of(settings, [one.rigid]), PIXEL)
    return PseudoSymmetric(folder, draw.rotations, mate == 0)


def settings_of(arms: PseudoSymmetric, out: Path, **options: object) -> RefineSettings:
    return validated(RefineSettings(particles=arms.folder / "particles.star", map=arms.folder / "map.mrc", threads=1,
                                    diameter=130.0, out=out, search="local", max_iterations=2, **options))


def test_particles_find_the_right_mate_where_a_plain_local_search_stays_with_the_wrong_one(
    arms: PseudoSymmetric, tmp_path: Path
) -> None:
    assert 0.15 < arms.given.mean() < 0.35
    refine(settings_of(arms, tmp_path / "plain"))
    state = refine(settings_of(arms, tmp_path / "relaxed", relax_symmetry="C4"))
    assert arms.right(tmp_path / "plain") < 0.35
    assert arms.right(tmp_path / "relaxed") > 0.85
    # Some stay open between mates, and their modes are kept.
    assert state.poses.weight.shape[1] == 4
    assert "C4 makes" in (tmp_path / "relaxed/log.txt").read_text()


@pytest.mark.parametrize(("words", "said"), [
    (["--relax-symmetry", "C4", "--symmetry", "C3"], "has not all elements of --symmetry C3"),
    (["--relax-symmetry", "C4", "--symmetry", "C4"], "nothing beyond"),
    (["--relax-symmetry", "C4", "--search", "fixed"], "local searches"),
    (["--relax_sym", "Q4"], "unknown"),
])  # fmt: skip
def test_a_group_that_cannot_be_relaxed_is_refused_in_one_line(
    arms: PseudoSymmetric, halfmap: Callable, tmp_path: Path, words: list[str], said: str
) -> None:
    search = [] if "--search" in words else ["--search", "local"]
    done = halfmap(["refine", arms.folder / "particles.star", "--map", arms.folder / "map.mrc", "--diameter", 130,
                    "--out", tmp_path / "run", *search, *words])
    assert done.status == 2 and said in done.error and done.error.count("\n") == 1, done.error


def test_a_start_that_shows_no_difference_between_mates_is_named(blobs: Callable) -> None:
    one = blobs(32, count=6)
    even = replace(one, centre=torch.cat([one.centre @ g.T for g in GROUP]), width=one.width.repeat(4),
                   weight=one.weight.repeat(4))
    for specimen, count in ((one, 0), (even, 1)):
        start = StartingMap(specimen.map().float(), Grid(32, PIXEL))
        assert len(alike_at_start(Path("start.mrc"), start, GROUP, 24.0)) == count


def test_a_prior_about_given_poses_holds_about_each_of_their_mates(blobs: Callable, random_poses: Callable) -> None:
    box, limit = 32, 12
    one = blobs(box, count=6, spread=0.16)
    geometry = ImagingGeometry.build(OpticsGroup("o", 300.0, 2.7, 0.1, 2.0, box), box, 2.0, limit)
    rotations, shifts = random_poses(20, spread=1.0)
    clean = one.images(geometry.band.kxy, rotations, shifts).to(torch.complex64)
    sigma2 = float((clean.abs() ** 2).sum(1).mean()) / 60.0**2
    flat = torch.ones(clean.shape)
    images = BandImages(geometry, clean, clean, flat, torch.full(flat.shape[1:], sigma2), torch.ones(20))
    reference = Reference(half_volume(one.map().float(), 2, limit), 2)
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, 0.02, 0.0]).as_matrix())
    given = turn @ rotations @ GROUP[1]  # a mate of the true pose, and 1.1 degrees off
    none = torch.zeros(20, 1, dtype=torch.float64)
    known = Poses(given[:, None], shifts[:, None], none, torch.zeros(20, 1, 5, 5, dtype=torch.float64))
    sd = math.radians(2.0)
    about = PosePrior(given, shifts, torch.zeros(3, dtype=torch.float64), sd**-2, 1.0, 3 * sd, 3.0)

    def off(found: Poses, from_: torch.Tensor) -> np.ndarray:
        between = found.rotations[:, 0].numpy() @ from_.numpy().transpose(0, 2, 1)
        return np.degrees(Rotation.from_matrix(between).magnitude())

    held = find_poses(reference, images, Sampling("local", limit), ShiftPrior(), known, about=about)
    assert off(held, given).max() < 6.01 and off(held, rotations).min() > 80
    relaxed = replace(about, mates=GROUP)
    found = find_poses(reference, images, Sampling("local", limit, modes=4, mates=GROUP), ShiftPrior(), known,
                       about=relaxed)
    assert off(found, rotations).max() < 0.5
    # One quarter of the prior is about each mate; and no pose has gone farther than from the given one's own mate.
    assert log_peak(ShiftPrior(), relaxed, 1) == pytest.approx(log_peak(ShiftPrior(), about, 1) - math.log(4))
    moves = Moves.zeros()
    moves.add_(found, relaxed, torch.ones(20), 2.0)
    assert math.degrees(float((moves.turn / moves.images).sqrt())) < 1.5
    assert float((moves.shift / moves.images).sqrt()) < 1.0
