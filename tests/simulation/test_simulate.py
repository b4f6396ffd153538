"""`halfmap simulate` writes what it was asked for, and the truth beside it."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.imaging.density import project
from halfmap.particles.model import read_model, write_pdb
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import draw_particles, noise_images, signal_images, simulate
from halfmap.simulation.specimen import BeltShape, Specimen, prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "molecule.pdb"
    write_pdb(path, demo_molecule())
    return path


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> SimulateSettings:
    out = tmp_path_factory.mktemp("run") / "made"
    settings = SimulateSettings(model=model, out=out, n=120, box=48, apix=4.0, snr=0.2, micelle=True,
                                micrographs=4, seed=7)
    simulate(settings)
    return settings


def belted(settings: SimulateSettings, hinge: str | None = None) -> Specimen:
    shape = BeltShape(None, 40.0, 0.0, 0.6) if settings.micelle else None
    return prepare(read_model(settings.model), settings.bfactor, hinge, shape)


def images_of(folder: Path) -> np.ndarray:
    with mrcfile.open(folder / "particles.mrcs") as stack:
        return np.asarray(stack.data, np.float64)


def test_contrast_varies_by_as_much_as_asked_and_stands_with_the_truth(run, tmp_path):
    varied = dataclasses.replace(run, out=tmp_path / "varied", snr=5.0, contrast_sd=0.3)
    simulate(varied)
    truth = starfile.read(varied.out / "particles_truth.star")["particles"]["halfmapContrast"].to_numpy()
    assert np.log(truth).std() == pytest.approx(0.3, rel=0.25)
    # against images of the same particles without it, whose poses are the same
    plain = dataclasses.replace(varied, contrast_sd=0.0)
    gain = json.loads((varied.out / "simulation.json").read_text())["gain"]
    signal = gain * signal_images(plain, belted(plain), draw_particles(plain), torch.arange(run.n)).double().numpy()
    found = (images_of(varied.out) * signal).sum(axis=(1, 2)) / (signal**2).sum(axis=(1, 2))
    assert np.abs(found - truth).max() < 0.06  # noise: 0.01


def test_the_measured_signal_to_noise_ratio_is_the_one_asked_for(run):
    specimen, draw, index = belted(run), draw_particles(run), torch.arange(run.n)
    gain = json.loads((run.out / "simulation.json").read_text())["gain"]
    signal = gain * signal_images(run, specimen, draw, index).double().numpy()
    noise = images_of(run.out) - signal
    assert abs(noise.var() - 1) < 0.01 and abs(noise.mean()) < 0.01
    assert abs(signal.var(axis=(1, 2)).mean() / noise.var(axis=(1, 2)).mean() - 0.2) < 0.004
    correlation = np.mean(noise[:, :, 1:] * noise[:, :, :-1])
    assert abs(correlation) < 0.01


def test_the_truth_reads_back_with_starfile_and_the_other_table_has_no_poses(run):
    truth = starfile.read(run.out / "particles_truth.star", always_dict=True)
    plain = starfile.read(run.out / "particles.star", always_dict=True)["particles"]
    optics, rows = truth["optics"], truth["particles"]
    assert len(rows) == len(plain) == 120
    assert float(optics["rlnImagePixelSize"].iloc[0]) == 4.0 and int(optics["rlnImageSize"].iloc[0]) == 48
    assert rows["rlnImageName"].iloc[-1] == "000120@particles.mrcs"
    told = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnClassNumber"}
    assert told <= set(rows.columns) and not told & set(plain.columns)
    assert rows["rlnMicrographName"].nunique() == 4
    draw = draw_particles(run)
    angles = rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    R = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    assert np.abs(R - draw.rotations.numpy()).max() < 1e-5
    origins = rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    assert np.abs(origins + draw.shifts.numpy()).max() < 1e-4


def test_particles_lie_where_the_truth_says_they_do(run):
    """The truth map is turned by scipy, shifted, summed and filtered. It must match the images best at the true pose,
    with a CTF sign that makes protein bright."""
    from scipy.ndimage import affine_transform

    with mrcfile.open(run.out / "truth.mrc") as file:
        volume = np.asarray(file.data, np.float64)
    draw, centre = draw_particles(run), np.full(3, 24.0)
    images = images_of(run.out)
    right, wrong = [], []
    for i in range(12):
        for rotation, scores in ((draw.rotations[i], right), (draw.rotations[i].T, wrong)):
            # Output voxel x' = R x + t shows the volume at x = R^T (x' - t). Arrays are indexed z, y, x.
            turn = rotation.T.numpy()[::-1, ::-1]
            shift = np.array([0.0, draw.shifts[i, 1] / 4, draw.shifts[i, 0] / 4])
            seen = affine_transform(volume, turn, centre - turn @ (centre + shift), order=1).sum(0)
            scores.append(np.corrcoef(seen.ravel(), images[i].ravel())[0, 1])
    assert np.mean(right) > 0.1 and np.mean(right) > 1.2 * np.mean(wrong)


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_reconstructs_the_truth_from_the_images_and_their_poses(model, tmp_path):
    simulate(SimulateSettings(model=model, out=tmp_path, n=400, box=48, apix=4.0, snr=3.0, astigmatism=2e3))
    command = ["relion_reconstruct", "--i", "particles_truth.star", "--o", "rebuilt.mrc", "--ctf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with mrcfile.open(tmp_path / "rebuilt.mrc") as found, mrcfile.open(tmp_path / "truth.mrc") as known:
        rebuilt, truth = np.asarray(found.data, np.float64), np.asarray(known.data, np.float64)
    k = np.fft.fftfreq(48, 1 / 48)
    inside = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 < (0.9 * 24) ** 2  # RELION fills only a sphere
    a, b = np.fft.fftn(rebuilt)[inside], np.fft.fftn(truth)[inside]
    product = np.vdot(b, a).real
    assert product / np.linalg.norm(a) / np.linalg.norm(b) > 0.97
    assert abs(product / np.vdot(b, b).real - 1) < 0.05


def test_the_truth_map_holds_the_rigid_part_in_the_grey_scale_of_the_images(run):
    specimen = belted(run)
    gain = json.loads((run.out / "simulation.json").read_text())["gain"]
    with mrcfile.open(run.out / "truth.mrc") as file:
        truth = np.asarray(file.data)
        assert file.voxel_size.x == 4.0
    expected = gain * float(specimen.rigid.weight.sum()) / 4.0**2
    assert abs(truth.sum() / expected - 1) < 1e-3
    with mrcfile.open(run.out / "initial.mrc") as file:
        assert np.asarray(file.data).sum() > 1.05 * truth.sum()  # the starting map includes the belt


def test_no_two_particles_share_a_belt_and_its_mean_density_is_the_fraction_asked_for(run):
    specimen = belted(run)
    atoms = read_model(run.model)
    assert specimen.belt is not None
    clouds = [specimen.belt.draw(np.random.default_rng(i)) for i in range(2)]
    assert not torch.equal(clouds[0].xyz, clouds[1].xyz)
    volume = len(specimen.belt.points) * specimen.belt.step**3
    protein = float(specimen.rigid.weight.sum()) / atoms.volume
    assert abs(float(clouds[0].weight.sum()) / volume / protein - 0.6) < 1e-3
    still = torch.eye(3, dtype=torch.float64)
    pair = [specimen.place(still, torch.zeros(2), np.random.default_rng(i)) for i in range(2)]
    one, other = project(pair, 48, 4.0, 2)
    assert (one - other).std() > 0.03 * one.std()


def test_detergent_keeps_out_of_the_protein_and_stays_in_the_membrane(run):
    specimen = belted(run)
    assert specimen.belt is not None
    points, atoms = specimen.belt.points, specimen.rigid.xyz.double()
    assert float(torch.cdist(points[::10], atoms).min()) > 3.5
    assert float(points[:, 2].max() - points[:, 2].min()) <= 40.0


def test_a_hinged_chain_swings_by_the_angle_asked_for_about_its_contact(run):
    specimen = belted(dataclasses.replace(run, micelle=False), hinge="B:9")
    (hinge,) = specimen.hinges
    drawn = [hinge.draw(np.random.default_rng(i)).numpy() for i in range(800)]
    swings = Rotation.from_matrix(np.stack(drawn))
    assert abs(np.degrees(np.sqrt(np.mean(swings.magnitude() ** 2))) - 9) < 0.7
    scene = specimen.place(torch.eye(3, dtype=torch.float64), torch.zeros(2), np.random.default_rng(1))
    moved = scene[1].rotation @ hinge.point
    assert torch.allclose(moved[:2] + scene[1].shift, hinge.point[:2], atol=1e-9)
    assert float(torch.cdist(hinge.point[None], specimen.rigid.xyz.double()).min()) < 6


def test_chains_on_hinges_of_their_own_swing_each_by_itself(model):
    atoms = read_model(model)
    upper = (atoms.xyz[:, 2] > atoms.xyz[atoms.in_chain("B"), 2].median()) & atoms.in_chain("B")
    parted = dataclasses.replace(atoms, chain=tuple("C" if up else c for up, c in zip(upper, atoms.chain, strict=True)))
    specimen = prepare(parted, 40.0, "B:9,C:4", None)
    turn, still = torch.eye(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    scenes = [specimen.place(turn, still, np.random.default_rng(i)) for i in range(800)]
    first, second = (Rotation.from_matrix(np.stack([s[i].rotation.numpy() for s in scenes])) for i in (1, 2))
    assert abs(np.degrees(np.sqrt(np.mean(first.magnitude() ** 2))) - 9) < 0.7
    assert abs(np.degrees(np.sqrt(np.mean(second.magnitude() ** 2))) - 4) < 0.3
    together = np.corrcoef(first.as_rotvec().T, second.as_rotvec().T)[:3, 3:]
    assert np.abs(together).max() < 0.15
    assert sum(len(body.cloud) for body in scenes[0]) == len(atoms)


def test_junk_is_labelled_and_noise_alone_has_no_signal(model, tmp_path):
    settings = SimulateSettings(model=model, out=tmp_path / "junk", n=60, box=48, apix=4.0, snr=5.0, junk=0.5)
    simulate(settings)
    truth = starfile.read(tmp_path / "junk/particles_truth.star", always_dict=True)["particles"]
    kinds = truth["rlnClassNumber"]
    variance = images_of(tmp_path / "junk").var(axis=(1, 2))
    assert set(kinds) == {1, 2, 3} and 0.25 < (kinds != 1).mean() < 0.75
    assert np.abs(variance[kinds == 2] - 1).max() < 0.2
    assert 1.2 < variance[kinds == 3].mean() < variance[kinds == 1].mean()
    alone = dataclasses.replace(settings, out=tmp_path / "noise", noise_only=True, junk=0.0)
    simulate(alone)
    assert np.abs(images_of(tmp_path / "noise").var(axis=(1, 2)) - 1).max() < 0.2


@pytest.mark.parametrize("dtype, mode, sd", [("int8", 0, 20.0), ("float16", 12, 1.0), ("float32", 2, 1.0)])
def test_stacks_have_the_type_asked_for(model, tmp_path, dtype, mode, sd):
    simulate(SimulateSettings(model=model, out=tmp_path, n=8, box=48, apix=4.0, snr=0.05, dtype=dtype))
    with mrcfile.open(tmp_path / "particles.mrcs") as stack:
        assert int(stack.header.mode) == mode
    assert abs(images_of(tmp_path).std() / sd - np.sqrt(1.05)) < 0.03


def test_the_images_depend_on_the_seed_alone(model, tmp_path):
    settings = SimulateSettings(model=model, out=tmp_path / "a", n=70, box=48, apix=4.0, micelle=True, seed=3)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(dataclasses.replace(settings, out=tmp_path / name, seed=seed))
    a, b, c = (images_of(tmp_path / name) for name in "abc")
    assert np.array_equal(a, b) and not np.allclose(a, c)


def test_sloped_noise_has_unit_variance_and_the_power_law_asked_for(model):
    settings = SimulateSettings(model=model, out=Path("unused"), n=300, box=64, noise_slope=1.0)
    noise = noise_images(settings, torch.arange(300)).double()
    assert abs(float(noise.var()) - 1) < 0.03
    power = (torch.fft.fft2(noise).abs() ** 2).mean(0)
    k = torch.fft.fftfreq(64, 1 / 64)
    radius = torch.hypot(k[:, None], k)
    low, high = (power[(radius - r).abs() < 1].mean() for r in (6, 24))
    assert abs(float(low / high) - 4.0) < 0.5


def test_preferred_views_follow_the_density_asked_for(model):
    settings = SimulateSettings(model=model, out=Path("unused"), n=40000)
    draw = draw_particles(dataclasses.replace(settings, preferred_orientation=3.0))
    cosine = np.cos(np.arange(0, 180.05, 0.1) * np.pi / 180)
    density = np.exp(3 * cosine**2) * np.sin(np.arange(0, 180.05, 0.1) * np.pi / 180)
    expected = (density * cosine**2).sum() / density.sum()
    assert abs(float((draw.rotations[:, 2, 2] ** 2).mean()) - expected) < 0.01
    uniform = draw_particles(settings).rotations
    assert torch.allclose(uniform.transpose(1, 2) @ uniform, torch.eye(3).double(), atol=1e-9)
    assert abs(float((uniform[:, 2, 2] ** 2).mean()) - 1 / 3) < 0.01


@pytest.mark.parametrize("change, message", [
    ({"box": 20}, "use --box"), ({"hinge": "Z:5"}, "chains are A B"), ({"hinge": "B"}, "write the chain"),
    ({"hinge": "B:5,B:7"}, "twice"), ({"hinge": "A:5,B:7"}, "every chain"),
    ({"symmetry": "C4"}, "does not have it"), ({"defocus_min": 3.0}, "exceeds"), ({"snr": -1.0}, "--snr"),
    ({"micelle": True, "micelle_centre": 500.0}, "no atom lies"), ({"dtype": "int32"}, "choose from"),
    ({"model": Path("absent.pdb")}, "no such model"), ({"assembly": True}, "no biological assembly"),
    ({"junk": 1.5}, "less than 1"),
])
def test_what_cannot_be_simulated_is_said_in_one_line(model, tmp_path, change, message):
    settings = SimulateSettings(model=model, out=tmp_path, n=2, box=48, apix=4.0)
    with pytest.raises(InputError, match=message):
        simulate(dataclasses.replace(settings, **change))


def test_the_demo_molecule_has_ideal_helices_and_survives_a_pdb_file(model):
    atoms, made = read_model(model), demo_molecule()
    assert 60e3 < made.mass < 80e3 and set(made.chain) == {"A", "B"}
    assert atoms.element == made.element and float((atoms.xyz - made.xyz).abs().max()) < 1e-3
    first = [i for i in range(len(made)) if made.name[i] == "CA" and made.chain[i] == "A"][:26]
    alpha = made.xyz[first].numpy()
    # In an alpha helix, alpha carbons of neighbouring residues are 3.8 A apart, and those of i and i + 4 are 6.2 A.
    assert np.abs(np.linalg.norm(np.diff(alpha, axis=0), axis=1) - 3.8).max() < 0.05
    assert np.abs(np.linalg.norm(alpha[4:] - alpha[:-4], axis=1) - 6.2).max() < 0.2
    assert abs(np.linalg.norm(alpha[18] - alpha[0]) - 27.0) < 0.3


def test_an_assembly_is_expanded_from_mmcif(tmp_path):
    import gemmi

    structure = gemmi.read_pdb_string(
        "REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A\n"
        "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000\n"
        "REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000\n"
        "REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000\n"
        "ATOM      1  CA  ALA A   1      10.000   2.000   3.000  1.00 20.00           C\n"
        "ATOM      2  N   ALA A   1      11.000   2.500   3.000  1.00 20.00           N\n"
        "HETATM    3  O   HOH A   2      15.000   2.000   3.000  1.00 20.00           O\nEND\n")
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "two.cif"))
    assert len(read_model(tmp_path / "two.cif")) == 2
    atoms = read_model(tmp_path / "two.cif", assembly=True)
    assert len(atoms) == 4 and len(set(atoms.chain)) == 2
    assert torch.allclose(atoms.xyz.mean(0), torch.tensor([0.0, 0.0, 3.0]).double(), atol=1e-6)
