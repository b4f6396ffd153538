"""The simulator's projections equal the analytic ones, in RELION's frame and sign conventions."""

import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.imaging.density import Cloud, Placed, density_map, oversampling_for, project
from halfmap.particles.model import Atoms, scattering

BOX, APIX = 32, 2.0


def one_gaussian(xyz: list[float], exponent: float = 0.07) -> Cloud:
    return Cloud(torch.tensor([xyz]), torch.tensor([[3.0]]), torch.tensor([[exponent]]))


def blob_of_atoms(count: int = 60, spread: float = 7.0, bfactor: float = 80.0) -> Cloud:
    random = np.random.default_rng(5)
    elements = tuple(random.choice(["C", "N", "O", "S"], count).tolist())
    xyz = torch.from_numpy(random.normal(0, spread, (count, 3)))
    atoms = Atoms(xyz, torch.full_like(xyz[:, 0], bfactor), torch.ones_like(xyz[:, 0]), elements,
                  ("A",) * count, ("ALA",) * count, (1,) * count, elements)
    return scattering(atoms)


def random_rotation(seed: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(rng=seed).as_matrix())


def relion_matrix(rot: float, tilt: float, psi: float) -> torch.Tensor:
    """RELION's A, from reference to image frame."""
    return torch.from_numpy(Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).as_matrix().T.copy())


@pytest.mark.parametrize("angles", [(0, 0, 0), (40, 0, 0), (10, 70, -130), (-95, 160, 20)])
def test_a_gaussian_projects_onto_the_analytic_gaussian_around_r_x_plus_t(angles):
    xyz, exponent, shift = [9.0, -4.0, 6.0], 0.07, [3.1, -1.7]
    R = relion_matrix(*angles)
    image = project([[Placed(one_gaussian(xyz, exponent), R, torch.tensor(shift))]], BOX, APIX, 2)[0].double()
    u, v, _ = R @ torch.tensor(xyz, dtype=torch.float64)
    axis = (torch.arange(BOX, dtype=torch.float64) - BOX // 2) * APIX
    dx, dy = axis[None, :] - (u + shift[0]), axis[:, None] - (v + shift[1])
    expected = 3.0 * exponent / math.pi * torch.exp(-exponent * (dx**2 + dy**2))
    assert (image - expected).abs().max() < 2e-4 * expected.max()


def test_the_scattering_of_an_atom_integrates_to_its_tabulated_forward_scattering():
    import gemmi

    cloud = blob_of_atoms(1, 0.0)
    image = project([[Placed(cloud, torch.eye(3), torch.zeros(2))]], BOX, APIX, 4)[0]
    table = {e: sum(gemmi.Element(e).c4322.a) for e in "CNOS"}
    found = float(image.double().sum()) * APIX**2
    assert min(abs(found / value - 1) for value in table.values()) < 1e-4


def test_the_projected_form_factor_of_carbon_is_gemmis():
    import gemmi

    xyz = torch.zeros(1, 3, dtype=torch.float64)
    atom = Atoms(xyz, xyz[:, 0] + 30, xyz[:, 0] + 1, ("C",), ("A",), ("ALA",), (1,), ("CA",))
    scene = [Placed(scattering(atom, 50.0), torch.eye(3), torch.zeros(2))]
    image = project([scene], BOX, 1.0, 3)[0].double()
    found = torch.fft.fft2(torch.fft.ifftshift(image))[0, : BOX // 2].real
    s = np.arange(BOX // 2) / BOX
    carbon = gemmi.Element("C").c4322
    expected = [carbon.calculate_sf(float(x * x / 4)) * math.exp(-80 * x * x / 4) for x in s]
    assert np.abs(found.numpy() - expected).max() < 2e-4 * expected[0]


def test_the_sum_of_the_map_along_z_is_the_projection_of_the_atoms():
    cloud = blob_of_atoms()
    factor = oversampling_for([cloud], APIX)
    volume = density_map([cloud], BOX, APIX, factor)
    image = project([[Placed(cloud, torch.eye(3), torch.zeros(2))]], BOX, APIX, factor)[0]
    assert (volume.sum(0) - image).abs().max() < 1e-5 * image.abs().max()


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_slice_of_the_map_across_any_direction_is_the_projection_of_the_atoms(seed, box):
    cloud, R = blob_of_atoms(spread=5.0, bfactor=250.0), random_rotation(seed)
    factor = oversampling_for([cloud], APIX)
    volume = density_map([cloud], box, APIX, factor).double().numpy()
    shift = torch.tensor([2.3, -3.9])
    image = project([[Placed(cloud, R, shift)]], box, APIX, factor)[0].double()

    # brute force: V(q) = sum v(x) exp(-2 pi i q.(x - c) / n) at q = kx R[0] + ky R[1], axis by axis
    k = np.arange(-(box // 2 - 2), box // 2 - 1)
    kx, ky = (a.ravel() for a in np.meshgrid(k, k))
    inside = kx**2 + ky**2 < (0.8 * box / 2) ** 2
    kx, ky = kx[inside], ky[inside]
    q = np.outer(kx, R[0].numpy()) + np.outer(ky, R[1].numpy())
    wave = [np.exp(-2j * np.pi * np.outer(q[:, i], np.arange(box) - box // 2) / box) for i in range(3)]
    slice_ = np.einsum("qz,qy,qx,zyx->q", wave[2], wave[1], wave[0], volume, optimize=True)
    slice_ *= np.exp(-2j * np.pi * (kx * 2.3 - ky * 3.9) / APIX / box)

    axis = np.arange(box) - box // 2
    plane = np.einsum("qy,qx,yx->q", np.exp(-2j * np.pi * np.outer(ky, axis) / box),
                      np.exp(-2j * np.pi * np.outer(kx, axis) / box), image.numpy(), optimize=True)
    assert np.linalg.norm(plane - slice_) < 1e-3 * np.linalg.norm(plane)


def test_sampling_on_the_chosen_grid_aliases_less_than_a_thousandth():
    cloud = blob_of_atoms(bfactor=40.0)
    factor = oversampling_for([cloud], 3.0)
    scene = [[Placed(cloud, random_rotation(4), torch.zeros(2))]]
    coarse, fine = project(scene, BOX, 3.0, factor)[0], project(scene, BOX, 3.0, 2 * factor)[0]
    assert factor > 1
    assert (coarse - fine).norm() < 1e-3 * fine.norm()


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
def test_relion_project_sees_the_same_images(tmp_path):
    from halfmap.maps.mrc import read_header, write_map

    cloud = blob_of_atoms(bfactor=150.0)
    factor = oversampling_for([cloud], APIX)
    write_map(tmp_path / "truth.mrc", density_map([cloud], 48, APIX, factor), APIX)
    command = ["relion_project", "--i", "truth.mrc", "--o", "image.mrc", "--angpix", str(APIX), "--rot", "37",
               "--tilt", "64", "--psi", "-112", "--xoff", "2", "--yoff", "-3"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    raw = (tmp_path / "image.mrc").read_bytes()
    found = np.frombuffer(raw, "<f4", offset=read_header(tmp_path / "image.mrc").offset).reshape(48, 48)
    # relion_project's --xoff is the origin in pixels: the projection moves by minus that
    scene = [Placed(cloud, relion_matrix(37, 64, -112), torch.tensor([-2.0 * APIX, 3.0 * APIX]))]
    image = project([scene], 48, APIX, factor)[0].numpy()
    assert np.corrcoef(found.ravel(), image.ravel())[0, 1] > 0.999
    assert abs((found * image).sum() / (image * image).sum() - 1) < 0.02
