"""``halfmap subtract`` on particles of two bodies: what is left is the images of one of them, simulated by itself."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.transform import image_fft
from halfmap.geometry.rotations import angular_distance
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import BeamTilt, OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import StackWriter, read_map, write_map
from halfmap.particles.model import centred, scattering
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.refinement.refine import refine
from halfmap.settings.refine import RefineSettings, validated
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation import simulate as simulation
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.specimen import Specimen
from halfmap.workflows.projections import Projector
from halfmap.workflows.windows import Windows

BOX, PIXEL, COUNT = 48, 3.9, 200
APART = 12.0  # A: how far each half of the molecule is moved from the other, along z
GREY, LIFT = 37.0, 500.0  # grey values of a stack: of one standard deviation of the noise, and of the background
DIAMETER = 165.0


@dataclass(frozen=True)
class TwoBodies:
    """A folder with a finished run at true poses, and what its images were made of.

    signal, inside, noise [b, y, x]: all of the particle, the body that is kept, and noise, in units of the noise.
    """

    folder: Path
    settings: SimulateSettings
    draw: simulation.Draw
    gain: float
    kept: Specimen
    signal: Tensor
    inside: Tensor
    noise: Tensor


def simulated(settings: SimulateSettings, specimen: Specimen, draw: simulation.Draw) -> Tensor:
    every = torch.arange(settings.n)
    return torch.cat([simulation.signal_images(settings, specimen, draw, index) for index in every.split(64)])


def refined(star: Path, start: Path, diameter: float, out: Path, **options: Any) -> Path:
    """A refinement without its page, which takes longer than these."""
    refine(validated(RefineSettings(particles=star, map=start, diameter=diameter, out=out, threads=1, **options)))
    return out


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> TwoBodies:
    folder = tmp_path_factory.mktemp("bodies")
    atoms, _ = centred(demo_molecule())
    upper = atoms.xyz[:, 2] > 0
    xyz = atoms.xyz.clone()
    xyz[:, 2] += torch.where(upper, APART, -APART)
    cloud = scattering(atoms.moved(xyz), 60.0)
    whole, kept = (Specimen(part, (), None) for part in (cloud, cloud.select(upper)))
    settings = SimulateSettings(model=Path("none"), out=folder, n=COUNT, box=BOX, apix=PIXEL, snr=4, seed=2,
                                micrographs=4, defocus_min=0.6, defocus_max=1.2)
    draw = simulation.draw_particles(settings)
    signal, inside = (simulated(settings, specimen, draw) for specimen in (whole, kept))
    gain = math.sqrt(settings.snr / float(signal.var()))
    signal, inside = gain * signal, gain * inside
    noise = simulation.noise_images(settings, torch.arange(COUNT))
    with StackWriter(folder / "particles.mrcs", COUNT, BOX, PIXEL) as writer:
        writer.write(GREY * (signal + noise) + LIFT)
    table = simulation._table(settings, draw, Path("particles.mrcs"))
    places = {f"rlnCoordinate{axis}": 100.0 * np.arange(COUNT) for axis in "XY"}
    write_star(folder / "particles.star", with_poses(table, draw.rotations, -draw.shifts, None, places))
    write_map(folder / "truth.mrc", gain * simulation._map_of(settings, [cloud]), PIXEL)
    density = simulation._map_of(settings, [kept.rigid])
    write_map(folder / "keep.mrc", solvent_mask(density, PIXEL, lowpass=10.0, extend=8.0, soft=6.0), PIXEL)
    refined(folder / "particles.star", folder / "truth.mrc", DIAMETER, folder / "run", search="fixed")
    return TwoBodies(folder, settings, draw, gain, kept, signal, inside, noise)


@pytest.fixture(scope="module")
def kept(bodies: TwoBodies, halfmap: Callable) -> Path:
    done = halfmap(["subtract", bodies.folder / "run", "--mask", bodies.folder / "keep.mrc", "--threads", 1,
                    "--out", bodies.folder / "kept"])
    assert done.status == 0, done.error
    assert "% of the power" in done.said and "of the images' power" in done.said
    return done.out


def images_of(folder: Path, table: ParticleTable) -> Tensor:
    """The images of a folder in the order of its table, in units of the noise."""
    with mrcfile.open(folder / "particles.mrcs") as file:
        stored = torch.from_numpy(np.array(file.data, dtype=np.float32))
    return (stored[torch.from_numpy(table.image_index)] - LIFT) / GREY


def shells(images: Tensor) -> Tensor:
    """Power of images [b, y, x] by shell."""
    band = Band.to_shell(images.shape[-1], images.shape[-1] // 2)
    return band.shell_sum(band.gather(image_fft(images)).abs().double().square().sum(dim=0))


def test_what_is_left_is_the_image_of_what_is_inside_the_mask(bodies: TwoBodies, kept: Path) -> None:
    table = read_star(kept / "particles.star")
    left = images_of(kept, table) - bodies.noise
    outside = bodies.signal - bodies.inside
    error = shells(left - bodies.inside) / shells(outside)
    # 120 noisy images make each half map: what their map lacks at fine shells is what stays in the images.
    assert float(error[1 : BOX // 5].max()) < 0.02
    assert float((left - bodies.inside).square().sum() / outside.square().sum()) < 0.04
    # Nothing of the noise goes: its own share in the half map is all that there is of it in what was subtracted.
    removed = bodies.signal + bodies.noise - images_of(kept, table)
    assert abs(float((removed * bodies.noise).sum() / bodies.noise.square().sum())) < 0.02


def test_the_table_names_the_original_images_and_keeps_everything_else(bodies: TwoBodies, kept: Path) -> None:
    before, after = (starfile.read(path / "particles.star")["particles"] for path in (bodies.folder / "run", kept))
    assert list(after["rlnImageOriginalName"]) == list(before["rlnImageName"])
    others = [label for label in before if label != "rlnImageName"]
    assert before[others].equals(after[others])
    with mrcfile.open(kept / "particles.mrcs") as file:
        assert file.data.shape == (COUNT, BOX, BOX) and file.data.dtype == np.float32
        assert float(file.voxel_size.x) == pytest.approx(PIXEL)


def test_recentred_images_are_those_of_the_part_about_its_own_centre_in_a_smaller_box(
    bodies: TwoBodies, halfmap: Callable, tmp_path: Path
) -> None:
    small = 36
    done = halfmap(["subtract", bodies.folder / "run", "--mask", bodies.folder / "keep.mrc", "--recentre", "--box",
                    small, "--dtype", "float16", "--threads", 1, "--out", tmp_path / "part"])
    assert done.status == 0, done.error
    table = read_star(tmp_path / "part/particles.star")
    assert float(table.origins.abs().max()) <= 0.5 * PIXEL + 1e-5  # a whole number of pixels was moved
    # By itself: the part's atoms about the point that the mask's centre lies at, whole voxels off the map's.
    with mrcfile.open(bodies.folder / "keep.mrc") as file:
        mask = np.array(file.data, dtype=np.float64)
    axis = np.arange(BOX) - BOX // 2
    point = [round(float((mask.sum(axis=tuple({0, 1, 2} - {a})) @ axis) / mask.sum())) * PIXEL for a in (2, 1, 0)]
    cloud = bodies.kept.rigid
    about = Specimen(replace(cloud, xyz=cloud.xyz - torch.tensor(point)), (), None)
    settings = replace(bodies.settings, box=small)
    expected = bodies.gain * simulated(settings, about, replace(bodies.draw, shifts=-table.origins))
    # Noise is what it was, seen through the window.
    moved = bodies.draw.shifts + (bodies.draw.rotations @ torch.tensor(point, dtype=torch.float64))[:, :2]
    offset = ((moved + table.origins) / PIXEL).round().long()
    noise = Windows(torch.zeros(3), offset, small).cut(bodies.noise, torch.arange(COUNT))
    left = images_of(tmp_path / "part", table) - noise
    middle = slice(6, -6)  # nearer to the edge mirrored pixels come in
    error = (left - expected)[:, middle, middle].square().sum() / expected[:, middle, middle].square().sum()
    assert float(error) < 0.03
    # Places on micrographs follow, and a focused refinement of the part works from there.
    columns = starfile.read(tmp_path / "part/particles.star")["particles"]
    places = np.stack([columns[f"rlnCoordinate{a}"] for a in "XY"], axis=1) - 100.0 * np.arange(COUNT)[:, None]
    assert np.abs(places - offset.numpy()).max() < 1e-4
    part = tmp_path / "part"
    again = refined(part / "particles.star", part / "map.mrc", 110.0, tmp_path / "again", search="local",
                    mask=part / "mask.mrc", max_iterations=2)
    found = read_star(again / "particles.star")
    assert float(angular_distance(found.rotations, bodies.draw.rotations).median()) < 5.0
    truth = simulation._map_of(settings, [about.rigid])
    seen = sum(read_map(again / f"half{h}_unfil.mrc").data for h in (1, 2))
    assert np.corrcoef(seen.flatten(), truth.flatten())[0, 1] > 0.85


def test_signal_that_the_ctf_moves_out_of_an_image_does_not_come_in_on_the_other_side(
    blobs: Callable, random_poses: Callable
) -> None:
    box, wide, pixel = 32, 128, 2.0
    one = blobs(box, count=5)
    rotation = random_poses(1)[0]
    optics = OpticsGroup("one", 300.0, 2.7, 0.1, pixel, box, beam_tilt=BeamTilt(0.6, -0.4))
    zero = torch.zeros(1, dtype=torch.float64)
    defocus = Defocus(zero + 21000, zero + 19000, zero + 0.4, zero, zero, zero + 1)
    table = ParticleTable(
        {}, (optics,), np.zeros(1, np.int64), (), np.zeros(1, np.int64), np.zeros(1, np.int64), defocus,
        rotation, torch.tensor([[4.0, -6.0]], dtype=torch.float64), None,
        np.zeros(1, np.int64), Path("none"),
    )  # fmt: skip
    # By the formulas, on a grid that nothing reaches the edge of: Gaussians, CTF, axial coma, shift.
    f = np.fft.fftfreq(wide, pixel)
    fy, fx = np.meshgrid(f, f, indexing="ij")
    square, azimuth = fx**2 + fy**2, np.arctan2(fy, fx)
    wavelength = 12.2643247 / math.sqrt(3e5 * (1 + 3e5 * 0.978466e-6))
    dz = 20000 + 1000 * np.cos(2 * (azimuth - 0.4))
    gamma = -math.pi * wavelength * dz * square + 0.5 * math.pi * 2.7e7 * wavelength**3 * square**2 - math.asin(0.1)
    coma = -2 * math.pi * 2.7e7 * wavelength**2 * square * (fx * 0.6e-3 + fy * -0.4e-3)
    q = torch.from_numpy(np.stack([fx, fy, 0 * fx], -1)) @ rotation[0] * box * pixel
    transform = one.transform(q).numpy() * -np.sin(gamma) * np.exp(1j * coma - 2j * np.pi * (fx * -4.0 + fy * 6.0))
    inside = np.sqrt(square) * box * pixel <= 13.5
    image = np.fft.fftshift(np.fft.ifft2(transform * inside).real)
    first = wide // 2 - box // 2
    expected = torch.from_numpy(image[first : first + box, first : first + box])
    projector = Projector.of(one.map().float(), Grid(box, pixel), 13)
    size = 2 * box
    found = projector.images(table, torch.zeros(1, dtype=torch.int64), 0, size)[0].double()
    found = found[size // 2 - box // 2 :, size // 2 - box // 2 :][:box, :box]
    narrow = projector.images(table, torch.zeros(1, dtype=torch.int64), 0)[0].double()
    off = [float((v - expected).norm() / expected.norm()) for v in (found, narrow)]
    assert off[0] < 0.01 < 0.1 < off[1]


def test_each_copy_of_an_expanded_set_loses_what_lies_outside_at_its_own_pose(
    bodies: TwoBodies, kept: Path, halfmap: Callable, tmp_path: Path
) -> None:
    run, star = bodies.folder / "run", tmp_path / "expanded.star"
    assert halfmap(["expand", run, "--symmetry", "C2", "--out", star]).status == 0
    done = halfmap(["subtract", run, "--mask", bodies.folder / "keep.mrc", "--particles", star, "--threads", 1, "--out",
                    tmp_path / "part"])
    assert done.status == 0, done.error
    table = read_star(tmp_path / "part/particles.star")
    found = images_of(tmp_path / "part", table).unflatten(0, (COUNT, 2))
    once = read_star(kept / "particles.star")
    torch.testing.assert_close(found[:, 0], images_of(kept, once), rtol=0, atol=2e-3)
    # The other copy is seen as if the particle were turned, which it is not: another image is left.
    outside = (bodies.signal - bodies.inside).square().mean()
    assert float((found[:, 0] - found[:, 1]).square().mean()) > 0.1 * float(outside)
    assert (np.asarray(table.half).reshape(-1, 2) == np.asarray(once.half)[:, None]).all()


def test_an_interrupted_subtraction_leaves_no_file(
    bodies: TwoBodies, halfmap: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cut, calls = Windows.cut, []

    def interrupted(windows: Windows, images: Tensor, index: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cut(windows, images, index)

    monkeypatch.setattr(Windows, "cut", interrupted)
    done = halfmap(["subtract", bodies.folder / "run", "--mask", bodies.folder / "keep.mrc", "--threads", 1, "--out",
                    tmp_path / "part"])
    assert done.status == 130 and len(calls) == 2 and not list((tmp_path / "part").iterdir())


def test_what_cannot_be_subtracted_is_said_in_one_line(bodies: TwoBodies, halfmap: Callable, tmp_path: Path) -> None:
    run, keep = bodies.folder / "run", bodies.folder / "keep.mrc"
    star = starfile.read(run / "particles.star")
    star["particles"]["rlnRandomSubset"] = 3 - star["particles"]["rlnRandomSubset"]
    starfile.write(star, tmp_path / "swapped.star")
    none = torch.zeros(BOX, BOX, BOX)
    write_map(tmp_path / "all.mrc", none + 1, PIXEL)
    none[0, 0, 0] = 1
    write_map(tmp_path / "corner.mrc", none, PIXEL)
    unfinished = Path(shutil.copytree(run, tmp_path / "unfinished"))
    (unfinished / "iterations.jsonl").write_text("")
    for words, said in (
        ([run, "--mask", tmp_path / "all.mrc"], "nothing is left to subtract"),
        ([run, "--mask", tmp_path / "corner.mrc"], "holds nothing of the run's map"),
        ([run, "--mask", keep, "--box", BOX + 2], "larger than the images"),
        ([run, "--mask", keep, "--particles", tmp_path / "swapped.star"], "in the other half set"),
        ([unfinished, "--mask", keep], "has not finished"),
        ([bodies.folder, "--mask", keep], "holds no settings.toml"),
        ([run, "--mask", keep, "--out", run], "holds a run already"),
    ):
        done = halfmap(["subtract", *words, *([] if "--out" in words else ["--out", tmp_path / "part"])])
        assert done.status == 2 and said in done.error and done.error.count("\n") == 1, done.error
        assert not (tmp_path / "part").exists()
