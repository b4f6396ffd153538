"""Images that were phase-flipped or multiplied by their CTF are as good as untouched ones: poses, noise, map, contrast.

The same simulated images are stored in the three ways, by numpy and another library for STAR files.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas
import pytest
import starfile
import torch
from numpy.typing import NDArray

from halfmap.geometry.rotations import angular_distance
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.imaging.premultiplied import noise_sd
from halfmap.maps.mrc import read_map
from halfmap.particles.source import ParticleSource
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.reconstruction.inverse import reconstruct
from halfmap.refinement import em
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.preflight import inspect_images
from halfmap.refinement.schedule import Schedule
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import updated_noise
from halfmap.validation.fsc import fsc

BOX, PIXEL, DIAMETER = 40, 4.2, 156.0
C1 = torch.eye(3, dtype=torch.float64)[None]
LABELS = {"flipped": "rlnCtfDataArePhaseFlipped", "multiplied": "rlnCtfDataAreCtfPremultiplied"}
Apply = Callable[[NDArray[np.float64]], NDArray[np.float64]]
HOW: dict[str, Apply] = {"flipped": np.sign, "multiplied": lambda c: c}


def contrast_transfer(row: pandas.Series, optics: pandas.Series) -> NDArray[np.float64]:
    """The CTF [y, x // 2 + 1] of an image, from the textbook and not from the program."""
    fy, fx = np.meshgrid(np.fft.fftfreq(BOX, PIXEL), np.fft.rfftfreq(BOX, PIXEL), indexing="ij")
    volts = 1e3 * optics.rlnVoltage
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    mean, half = 0.5 * (row.rlnDefocusU + row.rlnDefocusV), 0.5 * (row.rlnDefocusU - row.rlnDefocusV)
    defocus = mean + half * np.cos(2 * (np.arctan2(fy, fx) - math.radians(row.rlnDefocusAngle)))
    square = fx**2 + fy**2
    chi = math.pi * wavelength * defocus * square - math.pi / 2 * 1e7 * optics.rlnSphericalAberration * (
        wavelength**3 * square**2)
    return np.sin(chi + math.asin(optics.rlnAmplitudeContrast))


@pytest.fixture(scope="module")
def stored(simulated, tmp_path_factory) -> dict[str, Path]:
    """Particle files of the same 160 images, by how they were stored."""
    source = simulated(n=160, snr=0.2, seed=3)
    files = {"untouched": source / "particles_truth.star"}
    tables = starfile.read(files["untouched"], always_dict=True)
    with mrcfile.open(source / "particles.mrcs") as stack:
        spectra = np.fft.rfft2(np.array(stack.data))
    for how, change in HOW.items():
        folder = tmp_path_factory.mktemp(how)
        factors = np.stack([change(contrast_transfer(row, tables["optics"].iloc[0]))
                            for row in tables["particles"].itertuples()])
        images = np.fft.irfft2(spectra * factors, s=(BOX, BOX)).astype(np.float32)
        mrcfile.write(folder / "particles.mrcs", images, voxel_size=PIXEL)
        optics = tables["optics"].assign(**{LABELS[how]: 1})
        particles = tables["particles"].assign(rlnImageName=[
            f"{i + 1}@{folder / 'particles.mrcs'}" for i in range(len(images))])
        starfile.write({"optics": optics, "particles": particles}, folder / "particles_truth.star")
        shutil.copy(source / "initial.mrc", folder)
        files[how] = folder / "particles_truth.star"
    return files


@dataclass(frozen=True)
class Found:
    """What an expectation step finds.

    error [b]: of poses, in degrees; rotations [b, 3, 3]; gain, contrast [b]; noise [s]; map [z, y, x].
    """

    error: torch.Tensor
    rotations: torch.Tensor
    gain: torch.Tensor
    contrast: torch.Tensor
    noise: torch.Tensor
    map: torch.Tensor


@pytest.fixture(scope="module")
def found(stored: dict[str, Path]) -> dict[str, Found]:
    """A local step from the true poses, against the start, with the images stored in each way."""
    ways = {how: local_step(read_star(path)) for how, path in stored.items()}
    unsaid = read_star(stored["flipped"])
    untouched = tuple(replace(group, ctf_state=CtfState.UNTOUCHED) for group in unsaid.optics)
    return ways | {"flipped, not said": local_step(replace(unsaid, optics=untouched))}


def local_step(table: ParticleTable) -> Found:
    """An iteration before it, with poses as they are, gives the noise."""
    half = torch.arange(len(table)) % 2
    source = ParticleSource(replace(table, half=half.numpy()), DIAMETER)
    start = read_map(table.source.parent / "initial.mrc").data
    poses = PoseTable.empty(half, 3)
    poses.rotations[:, 0], poses.weight[:, 0] = table.rotations.float(), 1.0
    poses.shifts[:, 0] = (-table.origins / PIXEL).float()
    state = State(0, (start, start), inspect_images(source).power, torch.ones(len(table), dtype=torch.float64), 5.0,
                  poses, torch.ones(()))
    model = ImagingModel(BOX, PIXEL, C1, torch.arange(len(table)))
    for search in ("fixed", "local"):
        plan = Schedule(BOX, PIXEL, DIAMETER, C1, 30.0, 19, search).next([], 5.0)
        plan = replace(plan, sampling=replace(plan.sampling, limit=14), insert_limit=17)
        step = em.expectation_step(state, source, model, plan, 1)
        state = replace(state, sigma2=updated_noise(state, step.tally, ((0,),)))
    sums = step.statistics[0][0]
    for more in (*step.statistics[0][1:], *step.statistics[1]):
        sums.sums.add_(more.sums)
    rotations = step.poses.rotations[:, 0].double()
    return Found(angular_distance(rotations, table.rotations), rotations, step.poses.gain,
                 step.tally.cross / step.tally.norm, state.sigma2[0], reconstruct(sums.finished(C1)))


@pytest.mark.parametrize("how", ["flipped", "multiplied"])
def test_poses_contrasts_and_likelihoods_are_those_of_the_untouched_images(how, found):
    one, same = found[how], found["untouched"]
    assert float(one.error.median() / same.error.median()) == pytest.approx(1.0, abs=0.1)
    assert float(angular_distance(one.rotations, same.rotations).median()) < 0.5 * float(same.error.median())
    assert float(one.gain.mean() / same.gain.mean()) == pytest.approx(1.0, abs=0.1)
    assert float(one.contrast.median() / same.contrast.median()) == pytest.approx(1.0, abs=0.03)
    together = torch.corrcoef(torch.stack([one.contrast, same.contrast]))[0, 1]
    assert float(together) > 0.9


@pytest.mark.parametrize("how", ["flipped", "multiplied"])
def test_the_noise_is_that_of_the_untouched_images(how, found):
    """Not c^2 of it, which is half. Of the coarsest shells a CTF near zero leaves less than the mask lets in."""
    ratio = found[how].noise / found["untouched"].noise
    assert float((ratio[4:17] - 1).abs().max()) < (0.03 if how == "flipped" else 0.12)
    assert float(ratio[4:17].mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("how", ["flipped", "multiplied"])
def test_the_map_is_that_of_the_untouched_images(how, found):
    one, same = found[how].map, found["untouched"].map
    assert float(fsc(one, same)[1:9].min()) > 0.95
    truth = float((one * same).sum() / same.square().sum())
    assert truth == pytest.approx(0.95, abs=0.06), "their noise is not quite the same, as poses differ a little"


def test_flipped_images_that_are_taken_for_untouched_ones_have_the_wrong_sign_beyond_the_first_zero(found):
    curves = [fsc(found[how].map, found["untouched"].map)[10:13].mean() for how in ("flipped", "flipped, not said")]
    assert float(curves[0]) > 0.9 and float(curves[1]) < -0.4


def test_images_near_focus_keep_less_noise_when_they_are_multiplied():
    """The rms of c, by the integral of sin^2 over the image's transform."""
    optics = OpticsGroup("o", 300.0, 0.0, 0.1, 2.0, 128)
    u = torch.tensor([200.0, 3000.0, 20000.0], dtype=torch.float64)
    zero = torch.zeros_like(u)
    f = np.fft.fftfreq(1024, 2.0)
    phase = math.pi * optics.wavelength * (f[:, None] ** 2 + f**2)
    expected = [np.sqrt((np.sin(float(dz) * phase + math.asin(0.1)) ** 2).mean()) for dz in u]
    assert expected[0] < 0.9 * expected[2]
    level = noise_sd(optics, Defocus(u, u, zero, zero, zero, zero + 1))
    np.testing.assert_allclose(level.numpy(), expected, rtol=0.02)


def test_a_whole_refinement_takes_the_option_and_writes_what_it_was_told(stored, refine, edit_star):
    def forget(tables):
        tables["optics"] = tables["optics"].drop(columns=LABELS["multiplied"])

    folder = stored["multiplied"].parent
    edit_star(stored["multiplied"], folder / "unsaid.star", forget)
    done = refine(folder, "--ctf-premultiplied", "--max-iterations", 1, star="unsaid.star")
    assert done.status == 0, done.error
    assert "are premultiplied: modelled with CTF^2" in done.said
    assert np.ravel(starfile.read(done.out / "particles.star")["optics"][LABELS["multiplied"]]).tolist() == [1]
    both = refine(folder, "--ctf-premultiplied", "--phase-flipped")
    assert both.status == 2 and "one or the other" in both.error
    wrong = refine(folder, "--phase-flipped", star="particles_truth.star")
    assert wrong.status == 2 and "leave the option out" in wrong.error
