"""Every stage works where its input is: on the pretended accelerator to the bit what plain kernels give on the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, posterior_samples
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.score import ReferenceSlices
from halfmap.expectation.search import GlobalSearch, Reference, Sampling, find_poses
from halfmap.fourier import transform
from halfmap.fourier.band import Band
from halfmap.fourier.gridding import divide_envelope
from halfmap.geometry import rotations as rotating
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.forward import ImagingGeometry, band_images
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup
from halfmap.kernels.poses import Polished, PolishOptions, PosePrior, Samples, Starts
from halfmap.maps import filters, levels, masks
from halfmap.maps.rigid import moved
from halfmap.particles.outliers import traits
from halfmap.particles.preprocess import normalise, soft_circles
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.input_prior import InputPrior, Moves
from halfmap.regularisation.protocol import HalfSets, MapPair
from halfmap.settings.regularisers import REGULARISERS, regulariser_named
from halfmap.validation import bfactor, fsc, halfmaps, local_resolution, model_map, orientations, poses
from halfmap.validation.fsc_area import fsc_area
from halfmap.validation.thon_rings import RingSums

BOX, PIXEL, LIMIT = 20, 4.0, 8
M = transform.half_volume_extent(2, LIMIT)
BAND = Band.to_shell(BOX, LIMIT)
OPTICS = OpticsGroup("1", 300.0, 2.7, 0.1, PIXEL, BOX, beam_tilt=BeamTilt(0.2, -0.1), odd_zernike=(0.0, 0.1, 5.0),
                     even_zernike=(0.1, 0.0, 3.0), magnification=MagnificationMatrix(1.01, 0.0, 0.0, 0.99))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def complex_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.view_as_complex(noise(*shape, 2, seed=seed))


def half_sums(seed: int = 0) -> Tensor:
    """Sums [z, y, x, 3] with weights above zero."""
    sums = noise(2 * M + 1, 2 * M + 1, M + 1, 3, seed=seed)
    sums[..., 2] = 1 + sums[..., 2].abs()
    return sums


def molecule() -> Tensor:
    """A few blobs, no symmetry."""
    axis = torch.arange(BOX) - BOX // 2
    blobs = [(2, 0, 0, 2.0), (-3, 2, 1, 1.5), (0, -3, 2, 1.7), (1, 2, -4, 1.4)]
    return sum((torch.exp(-((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2) / (2 * w * w))
                for z, y, x, w in blobs), torch.zeros(BOX, BOX, BOX))


def rotations(count: int, seed: int = 0) -> Tensor:
    return rotating.quaternion_to_matrix(noise(count, 4, seed=seed, dtype=torch.float64))


def symmetric(sums: Tensor) -> tuple[Tensor, ...]:
    return tuple(kernels.symmetrise_(sums.clone(), symmetry_group(name).to(sums.device), 12.0, 2)
                 for name in ("C3", "D2", "T", "I1"))


def inserted(to: Any, kernel: str, curvature: Tensor | None = None) -> Tensor:
    sums = to(torch.zeros(2 * M + 1, 2 * M + 1, M + 1, 3))
    samples = Samples(to(torch.tensor([0, 0, 2, 1])), to(rotations(4)), to(noise(4, 2, dtype=torch.float64)),
                      to(torch.rand(4, generator=torch.Generator().manual_seed(0))))
    kernels.insert_slices_(sums, to(complex_noise(3, len(BAND))), to(noise(3, len(BAND)).abs()),
                           to(BAND.kxy.double() * 2), to(BAND.kxy), BOX, samples, kernel,
                           None if curvature is None else to(curvature))
    return sums


def about(to: Any, count: int) -> PosePrior:
    return InputPrior(3.0, 2.0, 3.0, torch.tensor([4.0, -3.0, 6.0]).double()).about(
        to(rotations(count, 5)), to(noise(count, 2, dtype=torch.float64) * 0.3), PIXEL)


def refined(to: Any) -> list[Polished]:
    volume = to(transform.half_volume(molecule(), 2, LIMIT))
    coords, kxy = to(BAND.kxy.double() * 2), to(BAND.kxy)
    starts = Starts(to(torch.tensor([0, 0, 1])), to(rotations(3)), to(noise(3, 2, dtype=torch.float64)))
    return [kernels.refine_poses(volume, coords, kxy, to(complex_noise(2, len(BAND))), to(noise(2, len(BAND))), starts,
                                 PolishOptions(BOX, 4, 0.1, 1e-3, 0.2), prior) for prior in (None, about(to, 2))]


def residuals(to: Any) -> list[Any]:
    arguments = (
        to(transform.half_volume(molecule(), 2, LIMIT)), to(BAND.kxy.double() * 2), to(BAND.kxy), to(BAND.shell), BOX,
        to(complex_noise(3, len(BAND))), to(noise(3, len(BAND))), to(torch.ones(3)), to(rotations(3)),
        to(noise(3, 2, dtype=torch.float64)))
    return [kernels.residual_sums(*arguments, weight) for weight in (None, to(noise(3, len(BAND)).square()))]


def kept(to: Any) -> Tensor:
    out = to(torch.zeros(6, 6, 6))
    kernels.add_kept_bands_(out, to(noise(6, 6, 6) * 3), to(complex_noise(6, 6, 6)), 1)
    return out


def best_of_two_blocks(to: Any) -> list[Tensor]:
    best = kernels.BestPoints(3, 4, to(torch.zeros(())).device)
    for seed in (0, 1):
        shifts = to(torch.arange(27).reshape(3, 9).short())
        best.add_(to(noise(3, 9, seed=seed)), shifts, to(torch.arange(9) + 9 * seed))
    best.sort_()
    return [best.score, best.index, best.shift]


def gains(count: int) -> Tensor:
    return torch.linspace(1, 0, count, dtype=torch.float64)


KERNELS = {
    "project_slices": lambda to: [kernels.project_slices(
        to(complex_noise(2 * M + 1, 2 * M + 1, M + 1)), to(BAND.kxy.double() * 2), to(rotations(5)), curvature)
        for curvature in (None, to(torch.linspace(-0.01, 0.01, 5)))],
    "insert_slices_": lambda to: [inserted(to, kernel, curvature) for kernel in ("trilinear", "gaussian")
                                  for curvature in (None, torch.tensor([0.01, -0.01, 0.005]).double())],
    "refine_poses": refined,
    "residual_sums": residuals,
    "slope_sums": lambda to: kernels.slope_sums(
        to(complex_noise(2 * M + 1, 2 * M + 1, M + 1)), to(complex_noise(2 * M + 1, 2 * M + 1, M + 1, seed=1)),
        to(BAND.kxy.double() * 2), to(rotations(5)), to(complex_noise(5, len(BAND))), to(noise(5, len(BAND)).square())),
    "best_shift": lambda to: kernels.best_shift(to(noise(2, 5, 7)), to(noise(2, 5, 7, seed=1)), to(noise(2, 7)),
                                                to(noise(5))),
    "score_block": lambda to: kernels.score_block(
        to(complex_noise(3, 11)), to(noise(3, 11)), ReferenceSlices(to(rotations(9)), *(
            to(noise(9, 11, seed=seed)) for seed in (1, 2, 3))), to(complex_noise(5, 11, seed=1)), to(noise(5))),
    "BestPoints": best_of_two_blocks,
    "distinct_peaks": lambda to: kernels.distinct_peaks(
        to(noise(2, 30).sort(descending=True).values), to(torch.arange(30).expand(2, 30)), to(rotations(30)),
        to(symmetry_group("C3")), 0.5, 4, 5.0),
    "shell_products": lambda to: kernels.shell_products(
        to(torch.fft.rfftn(noise(12, 12, 12))), to(torch.fft.rfftn(noise(12, 12, 12, seed=1))), to(torch.ones(7))),
    "sums_at": lambda to: [kernels.sums_at(to(torch.arange(24).reshape(shape) % 5), to(noise(24).reshape(shape)), 6)
                           for shape in ((24,), (2, 3, 4))],
    "soft_circles": lambda to: kernels.soft_circles(20, to(torch.tensor([5.0, 7.5])), 3.0,
                                                    to(torch.tensor([[9, 10], [4, 16]]))),
    "symmetrise_": lambda to: symmetric(to(half_sums())),
    "filtered_pair": lambda to: [
        kernels.filtered_pair(to(torch.fft.rfftn(noise(12, 12, 12))), to(torch.fft.rfftn(noise(n, n, n))), 8,
                              gains(200), gains(200)) for n in (8, 10)],
    "power_difference": lambda to: kernels.power_difference(to(complex_noise(6, 6, 6))),
    "add_kept_bands_": kept,
    "weight_by_shell": lambda to: kernels.weight_by_shell(to(half_sums()), 2, LIMIT + 1),
    "inverse_weight_by_shell": lambda to: kernels.inverse_weight_by_shell(
        to(half_sums()), to(gains(LIMIT + 1).double()), 2),
    "divided": lambda to: kernels.divided(to(half_sums()), gains(LIMIT + 1), to(gains(LIMIT + 1)), 2),
    "ratio_difference": lambda to: [
        kernels.ratio_difference(to(half_sums()), to(half_sums(1)), gains(LIMIT + 1), 2, M - 3, fold)
        for fold in (True, False)],
}  # fmt: skip


def defocus(count: int) -> Defocus:
    u = torch.linspace(6000, 20000, count, dtype=torch.float64)
    zero = torch.zeros_like(u)
    return Defocus(u, u - 500, zero + 0.4, zero + 0.1, zero + 10, zero + 0.9)


@cache
def micrograph(count: int) -> Tensor:
    """Images [b, y, x] of the molecule in the views rotations(count, 5), with noise."""
    geometry = ImagingGeometry.build(OPTICS, BOX, PIXEL, LIMIT)
    volume = transform.half_volume(molecule(), 2, LIMIT)
    slices = kernels.project_slices(volume, geometry.coords * 2, rotations(count, 5))
    flat = torch.zeros(count, BOX, BOX // 2 + 1, dtype=slices.dtype)
    flat[:, geometry.band.kxy[:, 1] % BOX, geometry.band.kxy[:, 0]] = slices * ctf(
        geometry.band.kxy, OPTICS, defocus(count))
    return transform.image_ifft(flat, BOX) + 3 * noise(count, BOX, BOX)


def images(to: Any, count: int = 6) -> Any:
    """A batch of them, under masks that follow the particles."""
    seen, _ = normalise(to(micrograph(count)), 7.0)
    centres = torch.tensor([[1, 0], [0, -2]]).repeat(count, 1)[:count]
    moved_masks = soft_circles(BOX, to(torch.full((len(centres),), 6.0)), 3.0, to(centres))
    geometry = ImagingGeometry.build(OPTICS, BOX, PIXEL, LIMIT).to(seen.device)
    sigma2, scale = to(torch.ones(BOX // 2 + 1) * 300), to(torch.linspace(0.8, 1.2, count))
    return band_images(seen, moved_masks, geometry, defocus(count).to(seen.device), sigma2, scale)


def searched(to: Any, kind: str) -> Any:
    batch = images(to)
    reference = Reference(to(transform.half_volume(molecule(), 2, LIMIT)), 2)
    known = Poses(to(rotations(6, 5)[:, None]), to(torch.zeros(6, 1, 2).double()), to(torch.zeros(6, 1).double()),
                  to(torch.zeros(6, 1, 5, 5).double()))
    grid = {"grid_limit": 5, "grid_step": math.radians(angular_step(1)), "shifts": shift_grid(2.0, 1.0),
            "grid": orientation_grid(1, torch.eye(3)[None])}
    mates = symmetry_group("C3" if "relaxed" in kind else "C1")
    sampling = Sampling(kind.split()[0], LIMIT, **(grid if "global" in kind else {}), centred="centred" in kind,
                        mates=mates)
    if kind == "global":
        known = None
    search = GlobalSearch(reference, sampling) if "global" in kind else None
    prior = ShiftPrior.from_spread(1.5)
    held = replace(about(to, 6), mates=to(mates)) if "held" in kind else None
    found = find_poses(reference, batch, sampling, prior, known, search, held)
    moves = Moves.zeros()
    if held is not None:
        moves.add_(found, held, to(torch.ones(6)), PIXEL)
    scale = search.grey_scale(batch) if search else 0.0
    samples = [posterior_samples(found, feed) for feed in ("best", "modes", "sigma")]
    return found, found.weight, found.covariance(), scale, samples, batch.sums(), float(moves.turn), float(moves.shift)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_work_where_their_tensors_are(on_both, name):
    on_both(KERNELS[name])


def test_no_kernel_is_left_out():
    assert KERNELS.keys() == set(kernels.__all__) - {"compiled_by_triton", "set_threads", "thread_count"}


@pytest.mark.parametrize("kind", ["global", "global centred", "local", "local held", "local relaxed",
                                  "local held relaxed", "fixed"])
def test_poses_are_found_where_the_images_are(on_both, kind):
    on_both(lambda to: searched(to, kind))


def sums_of(to: Any, seed: int, kernel: str = "trilinear") -> Backprojection:
    """Sums of a few images of a batch at their true poses."""
    batch = images(to, 40)
    statistics = Backprojection.zeros(BOX, 2, LIMIT, to(torch.zeros(())), kernel)
    some = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:20]
    samples = Samples(to(some), to(rotations(40, 5)[some]), to(noise(20, 2, seed=seed, dtype=torch.float64) * 0.2),
                      to(torch.ones(20)))
    statistics.insert_(*batch.sums(), batch.geometry.coords, batch.geometry.band, samples)
    return statistics


@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
@pytest.mark.parametrize("group", ["C1", "C2", "C3"])
def test_maps_are_reconstructed_where_the_sums_are(on_both, kernel, group):
    def work(to: Any) -> Any:
        first, second = (sums_of(to, seed, kernel) for seed in (0, 1))
        operators = to(symmetry_group(group))
        done = (first + second).finished(operators)
        coarse = first.coarser(5, 14).finished_(operators)
        return reconstruct(done), reconstruct(done, gains(LIMIT + 1)), reconstruct(coarse), done.numerator, done.weight
    on_both(work)


def half_sets(to: Any, group: str = "C1") -> tuple[HalfSets, Tensor]:
    mask = to(masks.spherical_mask(BOX, 6.0, 3.0))

    def curves(half1: Tensor, half2: Tensor) -> fsc.FscCurves:
        return fsc.corrected_fsc(half1, half2, mask, torch.Generator(half1.device).manual_seed(0))

    sums = tuple(tuple(sums_of(to, 2 * h + q) for q in (0, 1)) for h in (0, 1))
    return HalfSets.build(sums, to(symmetry_group(group)), PIXEL, curves), mask


METHODS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in REGULARISERS] + [
    ("uniform", {"curve": "unmasked"}),
    ("nonuniform", {"form": "literal", "window": "box", "target": "quarter", "aligned_noise": "ignored",
                    "amplitude": "squared"}),
    ("cutoff", {"outside": 20.0, "weight": 0.5, "mask": masks.spherical_mask(BOX, 5.0, 2.0)}),
    ("local-fsc", {"mode": "wiener"}),
    ("sidesplitter", {"mode": "spectrum"}),
    *(("sparse_smooth", {"parameters": kind}) for kind in ("cross-validated", "published-code", "local")),
]


@pytest.mark.parametrize(("name", "options"), METHODS, ids=lambda v: v if isinstance(v, str) else "-".join(
    str(part) for part in v.values() if isinstance(part, str)) or "usual")
def test_regularisers_work_where_their_half_sets_are(on_both, name, options):
    method = regulariser_named(name, **options, **({"steps": 4} if name in ("sparse_smooth", "joined") else {}))

    def work(to: Any) -> Any:
        halves, mask = half_sets(to)
        first = method.solve(halves, mask, {})
        joined = halves.joined_below(3)
        again = method.solve(joined, mask, first.memory)
        pair = method.filter_pair(MapPair(*halves.raw, halves.curves, PIXEL), mask)
        return first, again, pair, joined.plain(0)
    on_both(work)


def test_symmetry_reaches_quarter_maps(on_both):
    def work(to: Any) -> Any:
        halves, mask = half_sets(to, "C2")
        return regulariser_named("nonuniform").solve(halves, mask, {}), halves.quarter_difference(0, 6, 16)
    on_both(work)


PAIR = [molecule() + 0.3 * noise(BOX, BOX, BOX, seed=seed) for seed in (1, 2)]
SPHERE = masks.spherical_mask(BOX, 6.0, 3.0)
TURN = rotations(1)[0]


def correlated(to: Any) -> Any:
    half1, half2 = map(to, PAIR)
    # a generator of the CPU does as well, for maps that come from files
    here, there = (fsc.corrected_fsc(half1, half2, to(SPHERE), torch.Generator(device).manual_seed(1), draws=2)
                   for device in ("cpu", half1.device))
    words = fsc.mask_verdict(here, BOX, PIXEL) + fsc.tail_verdict(here, BOX, PIXEL)
    return here, there, halfmaps.null_band(BOX, to(SPHERE)), fsc.resolution(here.corrected, BOX, PIXEL), len(words)


def cones(to: Any) -> Any:
    found = orientations.conical_fsc(*map(to, PAIR))
    return found, orientations.corrected_cones(found, to(torch.full((BOX // 2 + 1,), 0.1)), 4)


def sharpening(to: Any) -> Any:
    weight = bfactor.fsc_weight(to(gains(BOX // 2 + 1)))
    kind = bfactor.Sharpening(-50.0, to(torch.full((BOX, BOX, BOX // 2 + 1), 0.9)), weight, 9.0)
    values = bfactor.log_amplitude(to(PAIR[0]), to(torch.ones(BOX, BOX, BOX // 2 + 1)))
    return bfactor.sharpened(to(PAIR[0]), PIXEL, kind), values, bfactor.fit_guinier(values, BOX, PIXEL, 30.0, 8.0)


def ring_sums(to: Any) -> Any:
    sums = RingSums(to(BAND.shell))
    sums.add(to(noise(9, len(BAND)).square()), to(noise(9, len(BAND), seed=1).square()))
    return sums.rings()


def turned(to: Any) -> Any:
    first, second, group = to(rotations(9)), to(rotations(9, 1)), to(symmetry_group("D3"))
    return (rotating.angular_distance(first, second, group), rotating.matrix_to_euler(first),
            rotating.euler_to_matrix(rotating.matrix_to_euler(first)), rotating.matrix_to_rotation_vector(first),
            rotating.random_rotations(3, torch.Generator(first.device).manual_seed(0)), orientation_grid(1, group))


def few_steps(minimize: Any, misfit: Any, start: Any, method: str, options: dict[str, Any]) -> Any:
    """A fit that ends early."""
    return minimize(misfit, start, method=method, options=options | {"maxfev": 20})


STAGES = {
    "transforms": lambda to: (
        transform.volume_ifft(transform.volume_fft(to(PAIR[0])), BOX), transform.resample_volume(to(PAIR[0]), 14),
        transform.resize_map(to(PAIR[0]), 4.0, 3.1, 22), transform.pad_volume(to(PAIR[0]), 24),
        transform.crop_volume(to(PAIR[0]), 10), divide_envelope(to(PAIR[0]), 2, "gaussian"),
        transform.from_half_volume(transform.half_volume(to(PAIR[0]), 2, LIMIT), 2, BOX)),
    "filters": lambda to: (
        filters.lowpass(to(PAIR[0]), PIXEL, 12.0), filters.gaussian_lowpass(to(PAIR[0]), PIXEL, 12.0),
        filters.sharpen(to(PAIR[0]), PIXEL, 40.0), filters.apply_radial_gain(to(PAIR[0]), gains(8))),
    "masks": lambda to: [masks.solvent_mask(to(v), PIXEL, d) for v, d in ((molecule(), None), (molecule(), 60.0),
                                                                        (noise(BOX, BOX, BOX), 60.0))],
    "contour levels": lambda to: (
        levels.contour_level(to(PAIR[0])), levels.contour_level(to(PAIR[0]), to(SPHERE)),
        levels.level_for_volume(to(PAIR[0]), 3e4, PIXEL)),
    "moved maps": lambda to: moved(to(PAIR[0]), to(TURN), to(torch.tensor([1.0, 2.0, 3.0])), PIXEL),
    "rotations": turned,
    "preparation": lambda to: (normalise(to(noise(4, BOX, BOX)), 7.0), traits(to(noise(4, 9, 9)), to(noise(4, 9, 9)))),
    "FSC": correlated,
    "FSC area": lambda to: (fsc_area(to(gains(BOX // 2 + 1)), 3.0, to(SPHERE)), fsc_area(to(gains(11)), 3.0)),
    "conical FSC": cones,
    "sampling": lambda to: orientations.fourier_sampling(to(rotations(200)[:, 2]), to(symmetry_group("C3"))),
    "local resolution": lambda to: local_resolution.local_resolution(
        *map(to, PAIR), to(SPHERE), local_resolution.Window(8.0)),
    "B factor": sharpening,
    "Thon rings": ring_sums,
    "model": lambda to: (
        model_map.density_mask(to(molecule()), PIXEL), model_map.coarse_correlation(*map(to, PAIR), PIXEL),
        model_map.fitted_pose(*map(to, PAIR), PIXEL)),
    "frames of poses": lambda to: (
        poses.common_frame(to(rotations(30)), to(rotations(30) @ TURN), to(symmetry_group("C2"))),
        poses.common_shift(to(rotations(30)), to(noise(30, 2)), to(torch.ones(30, dtype=torch.bool)))),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_science_functions_work_where_their_input_is(on_both, monkeypatch, name):
    monkeypatch.setattr(model_map.optimize, "minimize", partial(few_steps, model_map.optimize.minimize))
    on_both(STAGES[name])
