"""Curved slices against `relion_reconstruct --ewald`, from the same images and poses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import pytest
import torch
from fixtures.curved_atoms import BAND, BOX, DIAMETER, OPTICS, PIXEL, defocus, density, images_of, seen, write_star
from torch import Tensor

from halfmap.fourier.transform import image_fft
from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.ctf import ctf
from halfmap.imaging.curvature import CurvedImages
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.kernels.poses import Samples
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.validation.fsc import fsc

pytestmark = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed"
)
COUNT = 250
SPHERE = spherical_mask(BOX, BOX / 2 - 4, 3.0)  # RELION blanks the corners of the box


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Tensor, Tensor]:
    """Images with positive curvature in a folder, and [b, y, x], with their rotations and defoci."""
    folder, generator = tmp_path_factory.mktemp("ewald"), torch.Generator().manual_seed(3)
    rotations = random_rotations(COUNT, generator)
    under = 200 + 500 * torch.rand(COUNT, generator=generator).double()
    made = images_of(seen(rotations, under, 1)).float()
    with mrcfile.new(folder / "x.mrcs") as file:
        file.set_data(made.numpy())
        file.voxel_size = PIXEL
    write_star(folder, rotations, under)
    return folder, made, rotations, under


def halfmaps(made: Tensor, rotations: Tensor, under: Tensor, sign: int) -> Tensor:
    """The map [z, y, x] by this program."""
    geometry = Geometries(BOX, PIXEL, BAND.limit, torch.device("cpu")).of(OPTICS)
    c, y = ctf(BAND.kxy, OPTICS, defocus(under)), BAND.gather(image_fft(made))
    power = ProjectedPower.of(density().float(), PIXEL)
    sides = CurvedImages.of(BAND, OPTICS, defocus(under), sign, OPTICS.box_length, power) if sign else None
    batch = BandImages(geometry, y, y, c, torch.ones(len(BAND)), torch.ones(COUNT), curved=sides)
    samples = Samples(torch.arange(COUNT), rotations, torch.zeros(COUNT, 2).double(), torch.ones(COUNT))
    sums = Backprojection.zeros(BOX, 2, BAND.limit, torch.zeros(()))
    for side in batch.spread():
        sums.insert_(side.values, side.weights, geometry.coords, BAND, samples, side.curvature)
    return reconstruct(sums.finished(torch.eye(3).double()[None])) * SPHERE


def relions(folder: Path, options: str) -> Tensor:
    command = f"relion_reconstruct --i particles.star --o out.mrc --ctf --pad 2 {options}"
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return torch.from_numpy(mrcfile.read(folder / "out.mrc").copy()) * SPHERE


@pytest.mark.parametrize(("sign", "options"), [(1, ""), (-1, " --reverse_curvature")])
def test_maps_of_either_sign_are_those_of_relions_ewald_option(images, sign, options):
    theirs = relions(images[0], f"--ewald --mask_diameter {DIAMETER + 8} --skip_mask --skip_weighting{options}")
    same, other = (fsc(theirs, halfmaps(*images[1:], one))[1 : BAND.limit] for one in (sign, -sign))
    assert float(same.min()) > 0.98
    assert float(other[-1]) < 0.85
    if sign == 1:  # the images' own
        truth = density().float() * SPHERE
        own, flat = (fsc(truth, halfmaps(*images[1:], one))[1 : BAND.limit] for one in (1, 0))
        assert float((own - fsc(truth, theirs)[1 : BAND.limit]).min()) > -0.01
        assert float(own[-1]) > float(flat[-1])
