"""Images of nothing among the particles: they are told apart, and the particles are refined as if they were alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile


@pytest.fixture(scope="module")
def mixed(dataset, simulated, tmp_path_factory) -> Path:
    """The 200 particles of the data set and as many images of noise, in one shuffled file."""
    folder = tmp_path_factory.mktemp("mixed")
    empty = simulated(noise_only=True, seed=7)
    tables = []
    for source in (dataset, empty):
        table = starfile.read(source / "particles.star", always_dict=True)
        names = table["particles"]["rlnImageName"].str.split("@")
        table["particles"]["rlnImageName"] = [f"{n}@{(source / Path(p).name).absolute()}" for n, p in names]
        tables.append(table)
    rows = pd.concat([t["particles"] for t in tables], ignore_index=True).sample(frac=1, random_state=1)
    starfile.write({"optics": tables[0]["optics"], "particles": rows}, folder / "particles.star")
    shutil.copy(dataset / "initial.mrc", folder)
    return folder


@pytest.fixture(scope="module")
def done(mixed, refine):
    outcome = refine(mixed, "--max-iterations", 10)
    assert outcome.status == 0, outcome.error
    return outcome


def holds_one(outcome, dataset: Path) -> tuple[np.ndarray, np.ndarray]:
    """Stated probability of a particle, and whether there is one."""
    table = starfile.read(outcome.out / "particles.star", always_dict=True)["particles"]
    return table["halfmapParticleProbability"].to_numpy(), table["rlnImageName"].str.contains(dataset.name).to_numpy()


def test_images_of_noise_are_told_from_particles(done, dataset):
    p, real = holds_one(done, dataset)
    assert len(p) == 400 and real.sum() == 200
    assert (p[real] > 0.5).mean() > 0.97 and (p[~real] < 0.5).mean() > 0.97
    last = done.records[-1]
    assert last["particle_share"] == pytest.approx(0.5, abs=0.03)
    assert last["no_particle"] == (p < 0.5).sum() == pytest.approx(200, abs=12)
    assert sum(last["particle_probability"]) == 400


def test_the_particles_are_refined_as_if_they_were_alone(done, refined, dataset):
    truth = dataset / "particles_truth.star"
    alone = refined.poses_against(truth)
    table = starfile.read(done.out / "particles.star", always_dict=True)
    table["particles"] = table["particles"][table["particles"]["rlnImageName"].str.contains(dataset.name)]
    (done.out / "real").mkdir(exist_ok=True)
    starfile.write(table, done.out / "real" / "particles.star", overwrite=True)
    among = type(done)(0, "", "", done.out / "real").poses_against(truth)
    assert among["median"] < 1.15 * alone["median"] and among["above10"] < alone["above10"] + 0.03
    # Without the null hypothesis the spread of shifts climbs to that of the search (findings: 20 A and more).
    assert done.records[-1]["shift_sigma_A"] < 1.3 * refined.records[-1]["shift_sigma_A"]


def test_the_recorded_gain_is_that_of_images_as_far_as_they_hold_a_particle(done, refined):
    for outcome in (done, refined):
        table = starfile.read(outcome.out / "particles.star", always_dict=True)["particles"]
        gain, p = table["rlnLogLikeliContribution"], table["halfmapParticleProbability"]
        last = outcome.records[-1]
        assert last["gain"] == pytest.approx((gain * p).sum() / p.sum(), rel=1e-4)
        for half, said in enumerate(last["gain_halves"], start=1):
            own = table["rlnRandomSubset"] == half
            assert said == pytest.approx((gain * p)[own].sum() / p[own].sum(), rel=1e-4)
    # Half of the images are noise, which gains little: the plain mean of all images is far lower.
    assert done.records[-1]["gain"] > 0.75 * refined.records[-1]["gain"]
    assert gain.mean() == pytest.approx(last["gain"], rel=1e-3)


def test_the_user_is_told_how_many_images_are_empty(done):
    assert "of 400 images match no better than noise" in (done.out / "log.txt").read_text()


def test_a_clean_set_keeps_all_of_its_particles(refined):
    assert refined.records[-1]["no_particle"] == 0 and refined.records[-1]["particle_share"] > 0.99
    assert "no better than noise" not in (refined.out / "log.txt").read_text()


def test_the_null_hypothesis_can_be_left_out(refine, dataset):
    outcome = refine(dataset, "--no-null-hypothesis", "--max-iterations", 2)
    assert outcome.status == 0, outcome.error
    assert outcome.records[-1]["particle_share"] == 1.0
