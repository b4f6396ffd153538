"""Triton's slices, poses and residuals, run by its interpreter, are those of plain torch in float64."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

pytest.importorskip("triton.language")

from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels import paths, reference, reference_poses, triton_kernel, triton_poses, triton_slopes
from halfmap.kernels.poses import PolishOptions, PosePrior, Starts

GEOMETRIES = [(16, 2, 7), (15, 2, 6)]  # box, padding, limit
OTHERS = [(9, 1, 4), (8, 3, 3), (30, 1, 14)]  # too few coefficients to tell a pose, and more than a program takes
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
IMAGES = 4


def rotation(*degrees: float) -> Tensor:
    """exp([w]x) by scipy."""
    return torch.from_numpy(Rotation.from_rotvec(degrees, degrees=True).as_matrix())


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Scene:
    """Images of a specimen at known poses; numbers that kernels take as float32 are float32, whatever their type."""

    band: Band
    coords: Tensor
    volume: Tensor
    y: Tensor
    c: Tensor
    rotations: Tensor
    shifts: Tensor

    @staticmethod
    def of(blobs: Any, poses: tuple[Tensor, Tensor], box: int, padding: int, limit: int) -> Scene:
        band, (rotations, shifts) = Band.to_shell(box, limit), poses
        rotations = rotations.float().double()
        volume = half_volume(blobs(box).map(), padding, limit).to(torch.complex64).to(torch.complex128)
        coords = band.kxy.double() * padding
        slices = reference.project_slices(volume, coords, rotations[:, :2])
        strength = 15 * math.sqrt(len(slices)) / float(slices.abs().norm())
        c = (strength * torch.sin(0.3 + 0.05 * band.kxy.double().square().sum(1)).expand(slices.shape)).float().double()
        turned = torch.polar(torch.ones((), dtype=torch.float64), -2 * math.pi / box * shifts @ band.kxy.double().T)
        y = c * slices * turned + torch.view_as_complex(noise(*c.shape, 2, seed=1)) / math.sqrt(2)
        return Scene(band, coords, volume, y.to(torch.complex64).to(torch.complex128), c, rotations, shifts)

    def images(self, real: torch.dtype, count: int = IMAGES) -> list[Tensor]:
        """volume, coords, kxy, y and c in this precision, y and c of so many images."""
        whole = real.to_complex()
        return [self.volume.to(whole), self.coords.to(real), self.band.kxy, self.y[:count].to(whole),
                self.c[:count].to(real)]

    def starts(self, image: list[int], spread: float) -> Starts:
        """Poses turned by so many radians about each axis, and half a pixel off."""
        took, count = torch.tensor(image, dtype=torch.int64), len(image)
        off = torch.from_numpy(Rotation.from_rotvec(spread * noise(count, 3, seed=2).numpy()).as_matrix())
        return Starts(took, (off @ self.rotations[took]).float().double(), self.shifts[took] + 0.4)

    def prior(self, turn_limit: float = math.inf, shift_limit: float = math.inf) -> PosePrior:
        """About poses near the true ones."""
        about = rotation(4, -5, 3) @ self.rotations
        fulcrum = torch.tensor([2.0, -1.0, 1.5], dtype=torch.float64)
        return PosePrior(about, self.shifts + 0.3, fulcrum, 1 / 0.06**2, 1 / 0.5**2, turn_limit, shift_limit)


def slices(scene: Scene, real: torch.dtype, count: int, bent: bool) -> list[Any]:
    volume, coords, *_ = scene.images(real)
    # Axis-parallel slices fall onto grid points and onto the plane x = 0; the last ones do not.
    group = torch.from_numpy(Rotation.create_group("O").as_matrix())[[0, 5, 9]]
    axes = torch.cat([group, scene.rotations])[:count, : 2 + bent]
    curvature = torch.linspace(-0.01, 0.01, count, dtype=real) if bent else None
    # Curved slices leave the plane: they keep to coefficients that do not leave the half volume.
    return [volume, coords * (0.6 if bent else 1), axes.to(real), curvature]


def residuals(scene: Scene, real: torch.dtype, count: int, shells: Callable[[Tensor], Tensor]) -> list[Any]:
    volume, coords, kxy, y, c = scene.images(real, count)
    weight = noise(count, len(scene.band), seed=5).square().float().to(real)
    scale = torch.linspace(0.5, 1.5, count).to(real)
    axes = scene.rotations[:count, :2].to(real)
    sign = torch.where(torch.arange(len(scene.band)) % 3 == 0, -1.0, 1.0)
    return [volume, coords, kxy, shells(scene.band.shell), scene.band.box, y, c * sign.to(real), weight, scale, axes,
            scene.shifts[:count] + 9.3]


def slopes(scene: Scene, real: torch.dtype, count: int) -> list[Any]:
    # A magnification that is not 1: on a grid point it depends on the last bit in which cell a slope is looked for.
    coords = (scene.coords @ torch.tensor([[0.981, 0.013], [0.013, 0.969]]).double()).float().to(real)
    several = torch.arange(count) % IMAGES
    volume, _, _, y, c = scene.images(real)
    mate = volume.flip(0) + 0.3 * volume
    axes = scene.rotations[several, :2].to(real)
    return [volume, mate, coords, axes, y[several], c[several] ** 2 * torch.linspace(1, 2, count)[:, None].to(real)]


def polish(scene: Scene, real: torch.dtype, image: list[int], prior: PosePrior | None = None, **more: Any) -> list[Any]:
    spread = more.pop("spread", 0.08)
    options = PolishOptions(scene.band.box, prior=0.1, **{"steps": 4, "tolerance": 1e-3, "max_step": 0.1} | more)
    return [*scene.images(real), scene.starts(image, spread), options, prior]


def without_contrast(arguments: list[Any]) -> list[Any]:
    return [*arguments[:4], torch.zeros_like(arguments[4]), *arguments[5:]]


@dataclass(frozen=True)
class Case:
    """A kernel and what it is given: a list made of a scene and a precision. error: of float32, relative to the
    largest number of a result."""

    kernel: str
    arguments: Callable[[Scene, torch.dtype], list[Any]]
    plain: ModuleType = reference
    error: float = 2e-6


CASES = {
    "slices": Case("project_slices", lambda s, real: slices(s, real, 6, False)),
    "one slice": Case("project_slices", lambda s, real: slices(s, real, 1, False)),
    "no slice": Case("project_slices", lambda s, real: slices(s, real, 0, False)),
    "curved slices": Case("project_slices", lambda s, real: slices(s, real, 5, True)),
    "residuals": Case("residual_sums", lambda s, real: residuals(s, real, 2, lambda shell: shell), error=1e-5),
    "residuals in shells of several blocks, with gaps between them": Case(
        "residual_sums", lambda s, real: residuals(s, real, 2, lambda shell: 2 * (shell // 4)), error=1e-5),
    "residuals of no image": Case("residual_sums", lambda s, real: residuals(s, real, 0, lambda shell: shell)),
    "slopes": Case("slope_sums", lambda s, real: slopes(s, real, 3), error=1e-5),
    "slopes of no image": Case("slope_sums", lambda s, real: slopes(s, real, 0)),
    "poses as they are": Case("refine_poses", lambda s, real: polish(s, real, [0, 1, 1], steps=0), reference_poses),
    "poses": Case("refine_poses", lambda s, real: polish(s, real, [0, 0, 1, 3]), reference_poses, error=1e-5),
    "poses of which some are out of the running": Case(
        "refine_poses", lambda s, real: polish(s, real, [0, 0, 0, 2, 3, 3], drop=0.5, look=1), reference_poses,
        error=1e-5),
    # Half of these steps are rejected.
    "poses far from the true ones": Case(
        "refine_poses", lambda s, real: polish(s, real, [0, 1, 2, 3], spread=0.8, max_step=1.0, steps=6),
        reference_poses, error=1e-4),
    "poses about given ones": Case(
        "refine_poses", lambda s, real: polish(s, real, [0, 1, 2], s.prior()), reference_poses, error=1e-5),
    "poses at the limits of their prior": Case(
        "refine_poses", lambda s, real: polish(s, real, [0, 1, 2], s.prior(0.06, 0.3)), reference_poses, error=1e-5),
    "poses far from their prior": Case(
        "refine_poses", lambda s, real: polish(s, real, [0, 1], replace(s.prior(), turn=50.0, rotations=(
            rotation(110, 70, -95) @ s.rotations)), steps=1), reference_poses, error=1e-5),
    "one pose": Case("refine_poses", lambda s, real: polish(s, real, [3]), reference_poses, error=1e-5),
    "no pose": Case("refine_poses", lambda s, real: polish(s, real, []), reference_poses),
    "poses of images without contrast": Case(
        "refine_poses", lambda s, real: without_contrast(polish(s, real, [0, 1], steps=2)), reference_poses),
}  # fmt: skip


def kernel(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"halfmap.kernels.{paths.TRITON[name]}"), name)


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [getattr(result, f.name) for f in fields(result)]


@pytest.fixture
def scene(blobs, random_poses) -> Callable[..., Scene]:
    return lambda box, padding, limit: Scene.of(blobs, random_poses(IMAGES, 1.0), box, padding, limit)


@pytest.fixture(autouse=True)
def launches(monkeypatch) -> Iterator[list[str]]:
    """Names of the kernels that were launched, each with the types that it is compiled for."""
    launched, launch = [], triton_kernel.Kernel.launch

    def checked(self: triton_kernel.Kernel, programs: int, *arguments: Any) -> None:
        given = tuple(f"*{TYPES[a.dtype]}" if isinstance(a, Tensor) else "i32" for a in arguments)
        assert given == self.types, self.function
        launched.append(self.function.__name__)
        launch(self, programs, *arguments)

    monkeypatch.setattr(triton_kernel.Kernel, "launch", checked)
    yield launched


@pytest.mark.parametrize(("box", "padding", "limit", "name"), [
    (*geometry, name) for name, case in CASES.items()
    for geometry in (GEOMETRIES if case.plain is reference_poses else GEOMETRIES + OTHERS)
])  # fmt: skip
def test_triton_kernels_are_plain_torch_in_float64(scene, name, box, padding, limit):
    case, s = CASES[name], scene(box, padding, limit)
    found = tensors(kernel(case.kernel)(*case.arguments(s, torch.float32)))
    expected = tensors(getattr(case.plain, case.kernel)(*case.arguments(s, torch.float64)))
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        assert mine.shape == other.shape
        if other.numel():
            scale = float(other.abs().max().clamp_min(1e-9))
            assert float((mine - other).abs().max()) < case.error * scale
    if len(found) == 1:
        assert found[0].dtype == (torch.complex64 if case.kernel == "project_slices" else torch.float64)


def test_triton_slopes_of_more_images_than_a_program_takes_are_those_of_all(scene, monkeypatch):
    s = scene(9, 1, 4)
    monkeypatch.setattr(triton_slopes, "_IMAGES", 2)
    found = kernel("slope_sums")(*slopes(s, torch.float32, 5))
    expected = reference.slope_sums(*slopes(s, torch.float64, 5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("stretch", [128, 2048])
def test_triton_poses_have_the_sums_of_all_blocks_and_stretches_of_coefficients(scene, monkeypatch, stretch):
    s = scene(24, 1, 11)
    assert len(s.band) > 128
    monkeypatch.setattr(triton_poses, "_STRETCH", stretch)
    found = kernel("refine_poses")(*polish(s, torch.float32, [0, 1], steps=0))
    expected = reference_poses.refine_poses(*polish(s, torch.float64, [0, 1], steps=0))
    for mine, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6 * float(other.abs().max()))


def test_triton_poses_of_an_image_are_the_same_bits_whatever_images_are_beside(scene):
    s = scene(15, 2, 6)
    together = kernel("refine_poses")(*polish(s, torch.float32, [0, 1, 1, 3], drop=1.0))
    arguments = polish(s, torch.float32, [0, 1, 1, 3], drop=1.0)
    alone = kernel("refine_poses")(*arguments[:5], arguments[5].of(torch.arange(IMAGES) == 1), *arguments[6:])
    for mine, other in zip(tensors(alone), tensors(together), strict=True):
        assert torch.equal(mine, other[1:3])


def test_triton_residuals_of_an_image_are_the_same_bits_whatever_images_are_beside(scene):
    arguments = residuals(scene(15, 2, 6), torch.float32, 3, lambda shell: shell)
    together = kernel("residual_sums")(*arguments)
    alone = kernel("residual_sums")(*arguments[:5], *(part[1:2] for part in arguments[5:]))
    assert torch.equal(alone[0], together[1])


def test_triton_kernels_take_rows_that_lie_apart_and_conjugates_that_were_not_written(scene):
    s = scene(15, 2, 6)
    volume, coords, kxy, y, c, *rest = polish(s, torch.float32, [0, 2], steps=1)
    expected = kernel("refine_poses")(volume, coords, kxy, y, c, *rest)
    apart = torch.cat([y, y], dim=1)[:, : y.shape[1]], torch.cat([c, c], dim=1)[:, : c.shape[1]]
    written = kernel("refine_poses")(volume.conj().resolve_conj().conj(), coords, kxy, *apart, *rest)
    for mine, other in zip(tensors(written), tensors(expected), strict=True):
        assert torch.equal(mine, other)


def test_triton_slices_at_a_rotation_that_is_no_number_are_none_and_read_no_foreign_memory(scene):
    volume, coords, axes, _ = slices(scene(15, 2, 6), torch.float32, 6, False)
    broken = axes.clone()
    broken[1], broken[2] = math.nan, 1e6
    found = kernel("project_slices")(volume, coords, broken)
    assert bool(found[1].isnan().all())
    assert torch.equal(found[3:], kernel("project_slices")(volume, coords, axes)[3:])


def test_a_triton_polish_leaves_a_start_as_it_is_whose_precision_no_damping_makes_positive(scene):
    arguments = polish(scene(15, 2, 6), torch.float32, [0, 1])
    options = replace(arguments[6], prior=-1e6)
    expected = kernel("refine_poses")(*arguments[:6], replace(options, steps=0))
    for mine, other in zip(tensors(kernel("refine_poses")(*arguments[:6], options)), tensors(expected), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("count", [1, 3])
def test_a_triton_polish_reads_nothing_back_and_launches_the_same_kernels_whatever_it_finds(
    scene, monkeypatch, count
):
    launched = []
    monkeypatch.setattr(triton_kernel.Kernel, "launch", lambda self, *_: launched.append(self.function.__name__))
    *fixed, starts, options, prior = polish(scene(15, 2, 6), torch.float32, [0] * count, drop=2.0, look=2, steps=3)
    # Of tensors without memory nothing can be read.
    nowhere = Starts(*(getattr(starts, f.name).to("meta") for f in fields(starts)))
    kernel("refine_poses")(*(t.to("meta") for t in fixed), nowhere, options, prior)
    step = ["_propose", "_evaluate", "_accept"]
    assert launched == ["_evaluate", "_accept", *step, *step, "_drop", *step]
