"""Nothing is found wrong of right optics, though a CTF moves signal out of a mask, or amplitudes of a map are off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.specimens import Blobs
from fixtures.wrong_optics import PIXEL, brute_force_images
from scipy.spatial.transform import Rotation

from halfmap.fourier.shells import frequency_length
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import StackWriter, write_map
from halfmap.particles.star import write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.settings.ctf_refine import CtfRefineSettings, validated_ctf_refine
from halfmap.workflows.ctf_refine import ctf_refine

BOX, COUNT, DIAMETER, UNDERFOCUS = 96, 160, 110.0, 25000.0


def hollow() -> Blobs:
    """A shell of 24 blobs, 44 A from the centre: its transform has rings, and its edge is near that of a mask."""
    turns = torch.from_numpy(Rotation.random(24, rng=np.random.default_rng(3)).as_matrix())
    centre = turns[:, 0] * 44.0 / PIXEL
    return Blobs(BOX, centre, torch.full((24,), 1.0).double(), torch.full((24,), 5.0).double())


@pytest.mark.parametrize("amplitudes", ["right", "off"])
def test_nothing_is_found_wrong_where_the_ctf_moves_signal_and_the_maps_are_too_strong_in_some_shells(
    tmp_path: Path, amplitudes: str
) -> None:
    random, specimen = np.random.default_rng(5), hollow()
    rotations = torch.from_numpy(Rotation.random(COUNT, rng=random).as_matrix())
    defocus = random.uniform(0.9, 1.1, COUNT) * UNDERFOCUS
    with StackWriter(tmp_path / "particles.mrcs", COUNT, BOX, PIXEL) as writer:
        writer.write(brute_force_images(specimen, rotations, defocus, 6, BOX, tilted=False))
    zero, numbers, known = torch.zeros(COUNT).double(), np.arange(COUNT), torch.from_numpy(defocus)
    table = ParticleTable(
        {"rlnMicrographName": [f"m{i // 20}.mrc" for i in range(COUNT)]},
        (OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX),), 0 * numbers, (tmp_path / "particles.mrcs",), 0 * numbers,
        numbers, Defocus(known, known, zero, zero, zero, zero + 1), None, torch.zeros(COUNT, 2).double(), numbers % 2,
        numbers // 20, tmp_path / "particles.star",
    )  # fmt: skip
    write_star(tmp_path / "particles.star", with_poses(table, rotations, table.origins, None, {}))
    density = specimen.map()
    for half in (1, 2):
        noise = torch.from_numpy(random.normal(0, 0.02 * float(density.std()), (BOX, BOX, BOX)))
        own = (density + noise).float()
        if amplitudes == "off":
            shell = frequency_length(BOX) * BOX
            own = torch.fft.irfftn(torch.fft.rfftn(own) * (1.0 + 0.4 * torch.sin(0.9 * shell)), s=own.shape)
        write_map(tmp_path / f"half{half}.mrc", own, PIXEL)
    write_map(tmp_path / "mask.mrc", spherical_mask(BOX, 0.5 * DIAMETER / PIXEL, 3.0), PIXEL)
    found = ctf_refine(validated_ctf_refine(CtfRefineSettings(
        particles=tmp_path / "particles.star", half1=tmp_path / "half1.mrc", mask=tmp_path / "mask.mrc",
        diameter=DIAMETER, fit="defocus-micrograph,amplitude-contrast", out=tmp_path / "out", threads=1, device="cpu",
        finest=8.0)))
    assert not any(bool(one.applied.any()) for one in found.fitted)
    contrast = found.fitted[1]
    assert abs(float(contrast.change[0, 0])) < 0.01 and float(contrast.error[0, 0]) < 0.003
