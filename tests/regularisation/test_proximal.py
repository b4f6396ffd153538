"""The descent to a sparse and smooth map goes down, and ends where another solver does."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.transform import half_volume
from halfmap.kernels.poses import Samples
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.proximal import Penalty, Problem, descend, soft_threshold
from halfmap.regularisation.sparse_smooth import SparseSmooth
from halfmap.regularisation.support import Support

C1 = torch.eye(3, dtype=torch.float64)[None]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tiny(blobs, random_poses) -> Backprojection:
    """Noisy sums of a box of 7, padded twice."""
    return noisy_sums(blobs, random_poses, 2)


def noisy_sums(blobs, random_poses, padding: int) -> Backprojection:
    band = Band.to_shell(7, 2)
    defocus, poses = torch.linspace(0.03, 0.1, 40, dtype=torch.float64), random_poses(40)
    c = torch.sin(defocus[:, None] * (band.kxy**2).sum(1) + 0.3)
    y = c * blobs(7, width=1.0).images(band.kxy, *poses) + torch.view_as_complex(noise(40, len(band), 2, seed=1)) * 0.5
    statistics = Backprojection.zeros(7, padding, 2, torch.zeros((), dtype=torch.float64))
    statistics.insert_(c * y, c**2, band.kxy.double(), band, Samples(torch.arange(40), *poses, torch.ones(40)))
    return statistics.finished(C1)


def dense(statistics: Backprojection) -> tuple[np.ndarray, np.ndarray]:
    """A [voxel, voxel] and b [voxel], not normalised, by numpy's full complex transforms of the padded box."""
    n, p, m = statistics.box, statistics.padding, statistics.sums.shape[2] - 1
    size = n * p
    W, D = np.zeros((size,) * 3), np.zeros((size,) * 3, complex)
    line = np.arange(-m, m + 1)
    z, y, x = np.meshgrid(line, line, np.arange(m + 1), indexing="ij")
    sums = statistics.sums.numpy()
    for sign in (1, -1):
        kept = (x > 0) | (sign == 1)
        index = tuple((sign * k[kept]) % size for k in (z, y, x))
        np.add.at(W, index, sums[..., 2][kept])
        np.add.at(D, index, sums[..., 0][kept] + sign * 1j * sums[..., 1][kept])
    e = trilinear_envelope(n, p).numpy()
    start, E = size // 2 - n // 2, np.einsum("z,y,x->zyx", e, e, e)
    inside = (slice(start, start + n),) * 3

    def back(F: np.ndarray) -> np.ndarray:
        return E * np.fft.fftshift(np.fft.ifftn(F).real)[inside]

    A = []
    for v in range(n**3):
        unit = np.zeros((size,) * 3)
        unit[inside].reshape(-1)[:] = 0
        where = np.unravel_index(v, (n,) * 3)
        unit[tuple(start + w for w in where)] = E[where]
        A.append(back(W * np.fft.fftn(np.fft.ifftshift(unit))).reshape(-1))
    return np.array(A), back(D).reshape(-1)


def objective(x: np.ndarray, A: np.ndarray, b: np.ndarray, p: Penalty, before: np.ndarray, n: int) -> float:
    """F by its formula, with numpy and loops over voxels' neighbours."""
    v = x.reshape(n, n, n)
    square = np.zeros((n, n, n))
    square[:-1] += np.diff(v, axis=0) ** 2
    square[:, :-1] += np.diff(v, axis=1) ** 2
    square[:, :, :-1] += np.diff(v, axis=2) ** 2
    d = np.sqrt(square) / p.spacing
    h = np.where(d < p.rounding, d**2 / (2 * p.rounding), d - p.rounding / 2)
    local = np.broadcast_to(np.asarray(p.local), v.shape)
    return float(0.5 * x @ A @ x - b @ x + 0.5 * p.inertia * ((x - before) ** 2).sum()
                 + p.sparse * (local * np.log(1 + np.abs(v) / p.eps)).sum()
                 + p.smooth * (local * np.log(1 + h / p.eps_gradient)).sum())


def test_the_data_term_is_the_one_that_full_transforms_of_the_padded_box_give(tiny):
    data = NormalEquations.of(tiny)
    A, b = dense(tiny)
    A, b = A / data.mean_weight, b / data.mean_weight
    x = noise(7, 7, 7, seed=2)
    assert np.allclose(data.apply(x).numpy().reshape(-1), A @ x.numpy().reshape(-1), atol=1e-10 * np.abs(A).max())
    assert np.allclose(data.linear.numpy().reshape(-1), b, atol=1e-10 * np.abs(b).max())
    largest = np.linalg.eigvalsh(A)[-1]
    assert 0.75 * largest < data.largest_eigenvalue <= largest * (1 + 1e-9) <= data.largest_weight * (1 + 1e-9)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("low, high", [((0, 2, 3), (7, 6, 5)), ((1, 0, 2), (2, 7, 7)), ((2, 2, 2), (6, 6, 6))])
def test_a_smaller_support_leaves_out_rows_and_columns_and_changes_nothing_else(
    blobs, random_poses, low, high, padding
):
    tiny, support = noisy_sums(blobs, random_poses, padding), Support(7, low, high)
    data = NormalEquations.of(tiny, support=support)
    A, b = (a / data.mean_weight for a in dense(tiny))
    kept = support.cut(torch.arange(7**3).reshape(7, 7, 7)).reshape(-1).numpy()
    A, b = A[np.ix_(kept, kept)], b[kept]
    x = noise(*support.shape, seed=2)
    assert np.allclose(data.apply(x).numpy().reshape(-1), A @ x.numpy().reshape(-1), atol=1e-10 * np.abs(A).max())
    assert np.allclose(data.linear.numpy().reshape(-1), b, atol=1e-10 * np.abs(b).max())
    assert np.linalg.eigvalsh(A)[-1] <= data.largest_weight
    whole = NormalEquations.of(tiny)
    assert data.misfit(x) == pytest.approx(whole.misfit(support.within_box(x)))
    assert (data.rms, data.noise, data.mean_weight) == (whole.rms, whole.noise, whole.mean_weight)


@pytest.mark.parametrize("box, coarse", [(48, 48), (48, 32), (48, 30), (47, 47)])
def test_the_support_holds_the_window_on_any_grid_and_little_more(box, coarse):
    window = torch.zeros(box, box, box)
    window[10:20, 5:44, 24:25] = 1
    support, ratio = Support.of(window, coarse), coarse / box
    for low, high, first, last in zip(support.low, support.high, (10, 5, 24), (19, 43, 24), strict=True):
        first, last = ((i - box // 2) * ratio + coarse // 2 for i in (first, last))
        assert 1 < first - low <= 3 and 1 < high - 1 - last <= 3
    assert Support.of(None, coarse) == Support.of(0 * window, coarse) == Support.of(window + 1, coarse)
    assert Support.of(window + 1, coarse).shape == (coarse, coarse, coarse)


@pytest.mark.parametrize("spacing", [1.0, 1.6])
@pytest.mark.parametrize("local", [False, True])
def test_the_gradient_of_the_smooth_term_is_that_of_finite_differences(spacing, local):
    factor = noise(5, 5, 5, seed=9).exp() if local else 1.0
    penalty = Penalty(0.0, 0.7, 0.0, 1.0, 0.4, 0.5, spacing, factor)
    x = noise(5, 5, 5, seed=3)
    bound = penalty.smooth_bound(x)
    found, diagonal = bound.gradient, bound.curvature
    step = 1e-5
    for v in np.ndindex(5, 5, 5):
        there, back = x.clone(), x.clone()
        there[v] += step
        back[v] -= step
        slope = (penalty.value(there) - penalty.value(back)) / (2 * step)
        assert slope == pytest.approx(float(found[v]), abs=1e-7)
    assert float(diagonal.min()) > 0


def test_the_soft_threshold_is_the_minimiser_that_a_search_finds():
    z = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    for y, threshold in ((1.3, 0.4), (-2.0, 0.5), (0.3, 0.31), (-0.2, 1.0), (0.0, 0.1), (2.5, 0.0)):
        best = float(z[(0.5 * (z - y) ** 2 + threshold * z.abs()).argmin()])
        given = soft_threshold(torch.tensor(y, dtype=torch.float64), torch.tensor(threshold, dtype=torch.float64))
        assert float(given) == pytest.approx(best, abs=1e-4)


PENALTIES = {
    "sparse": Penalty(0.03, 0.0, 0.1, 0.1, 0.1, 0.02), "smooth": Penalty(0.0, 0.03, 0.1, 0.1, 0.1, 0.02),
    "both": Penalty(0.02, 0.03, 0.2, 0.1, 0.05, 0.02), "coarse": Penalty(0.05, 0.2, 0.05, 0.2, 0.1, 0.02, 1.5),
    "harsh": Penalty(0.3, 1.0, 0.05, 0.05, 0.05, 1e-3),
    "local": Penalty(0.02, 0.03, 0.2, 0.1, 0.05, 0.02, local=noise(7, 7, 7, seed=8).exp()),
}  # fmt: skip


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_objective_never_rises_and_is_that_of_the_formula(tiny, name, dtype):
    data = NormalEquations.of(replace(tiny, sums=tiny.sums.to(dtype)))
    start, before = noise(7, 7, 7, seed=4).to(dtype), 0.2 * noise(7, 7, 7, seed=5).to(dtype)
    penalty = PENALTIES[name]
    if isinstance(penalty.local, Tensor):
        penalty = replace(penalty, local=penalty.local.to(dtype))
    found = descend(Problem(data, penalty, before), start, 200, 0.0)
    assert len(found.objective) > 20 and found.map.dtype == dtype
    assert all(b <= a for a, b in pairwise(found.objective))
    A, b = (a / data.mean_weight for a in dense(tiny))
    for x, value in ((start, found.objective[0]), (found.map, found.objective[-1])):
        arrays = (a.double().numpy().reshape(-1) for a in (x, before))
        x, previous = arrays
        assert objective(x, A, b, PENALTIES[name], previous, 7) == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_plain_step_goes_down_from_any_map_with_the_largest_weight_as_bound(tiny, name):
    """The step without acceleration is safe by itself, the smooth term included."""
    data = NormalEquations.of(tiny)
    for seed in range(5):
        x = noise(7, 7, 7, seed=seed) * 10.0 ** (seed - 3)
        problem = Problem(data, PENALTIES[name], torch.zeros_like(x))
        z = problem.step(x, data.apply(x), torch.tensor(data.largest_weight))
        assert problem.value(z, data.apply(z)) < problem.value(x, data.apply(x))


def test_the_last_step_is_the_first_that_gains_less_than_the_share_asked_for(tiny):
    problem, start = Problem(NormalEquations.of(tiny), PENALTIES["both"]), noise(7, 7, 7, seed=4)
    values = descend(problem, start, 200, 0.0, share=1e-3).objective
    enough = [a - b >= 1e-3 * (values[0] - b) for a, b in pairwise(values)]
    assert 5 < len(enough) < 100 and all(enough[:-1]) and not enough[-1]


@pytest.mark.parametrize("name", ["sparse", "smooth", "both", "coarse", "local"])
def test_the_map_is_the_one_that_another_solver_finds(tiny, name):
    """scipy's L-BFGS-B solves for the positive and the negative part of the map, so that it needs no threshold."""
    penalty, data = PENALTIES[name], NormalEquations.of(tiny)
    before = 0.2 * noise(7, 7, 7, seed=5)
    start = reconstruct(tiny)
    found = descend(Problem(data, penalty, before), start, 3000, 1e-9)
    A, b = (a / data.mean_weight for a in dense(tiny))
    previous = before.numpy().reshape(-1)

    def gradient(x: np.ndarray) -> np.ndarray:
        smooth = penalty.smooth_bound(torch.from_numpy(x.reshape(7, 7, 7))).gradient.numpy().reshape(-1)
        return A @ x - b + penalty.inertia * (x - previous) + smooth

    def split(parts: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = np.split(parts, 2)
        x, size = plus - minus, plus + minus
        f = objective(x, A, b, replace(penalty, sparse=0.0), previous, 7)
        weight = penalty.sparse * np.broadcast_to(np.asarray(penalty.local), (7, 7, 7)).reshape(-1)
        f += (weight * np.log(1 + size / penalty.eps)).sum()
        pull = weight / (penalty.eps + size)
        return f, np.concatenate([gradient(x) + pull, -gradient(x) + pull])

    x = found.map.numpy().reshape(-1) + 0.003 * noise(7**3, seed=6).numpy()  # near: F has more than one minimum
    result = optimize.minimize(
        split, np.concatenate([x.clip(0), (-x).clip(0)]), jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * 7**3),
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30},
    )  # fmt: skip
    plus, minus = np.split(result.x, 2)
    assert result.fun >= found.objective[-1] - 1e-6 * abs(result.fun)
    error = np.linalg.norm(plus - minus - found.map.numpy().reshape(-1)) / np.linalg.norm(plus - minus)
    assert error < 2e-3
    if penalty.sparse > 0:
        assert 0.1 < float((found.map == 0).double().mean()) < 0.99


@pytest.mark.parametrize("parameters", ["fixed", "published-code"])
def test_more_images_of_the_same_kind_weaken_the_strengths_as_they_do_the_noise(tiny, parameters):
    """But for the authors' program's, whose unit is that of the map. All other parameters stay as they are."""
    method, once = SparseSmooth(parameters=parameters), NormalEquations.of(tiny)
    twice = NormalEquations.of(tiny + tiny)
    a, b = (method.penalty(data, 0.3, 1.0) for data in (once, twice))
    assert b.rounding == pytest.approx(a.rounding / math.sqrt(2))
    for name in ("sparse", "smooth"):
        expected = getattr(a, name) / (math.sqrt(2) if parameters == "fixed" else 1)
        assert getattr(b, name) == pytest.approx(expected), name
    for name in ("inertia", "eps", "eps_gradient"):
        assert getattr(b, name) == pytest.approx(getattr(a, name)), name


def test_where_little_noise_is_left_the_unit_is_that_of_the_paper(tiny):
    """Samples of one image at many poses average out: weights then tell of more noise than the sums hold."""
    spread = replace(tiny, sums=tiny.sums * torch.tensor([1e-3, 1e-3, 1.0], dtype=torch.float64))
    for data, less in ((NormalEquations.of(tiny), True), (NormalEquations.of(spread), False)):
        found, published = (SparseSmooth(parameters=name).penalty(data, 0.3, 1.0).sparse
                            for name in ("fixed", "published-code"))
        assert (found < published) == less and found <= published


def test_the_unit_of_the_published_parameters_is_the_rms_over_the_padded_box(tiny):
    """It is not the rms over the box: that of a map which fills the box is padding^(3/2) times larger."""
    data = NormalEquations.of(tiny)
    size, m = 14, tiny.sums.shape[2] - 1
    D = np.zeros((size,) * 3, complex)
    line = np.arange(-m, m + 1)
    z, y, x = np.meshgrid(line, line, np.arange(m + 1), indexing="ij")
    s = tiny.sums.numpy()
    for sign in (1, -1):
        kept = (x > 0) | (sign == 1)
        np.add.at(D, tuple((sign * k[kept]) % size for k in (z, y, x)), s[..., 0][kept] + sign * 1j * s[..., 1][kept])
    padded = np.fft.ifftn(D).real / data.mean_weight
    assert data.rms == pytest.approx(np.sqrt((padded**2).mean()), rel=1e-3)


def test_the_misfit_is_the_weighted_distance_from_the_sums(tiny):
    data = NormalEquations.of(tiny)
    x, y = 0.3 * noise(7, 7, 7, seed=7), reconstruct(tiny)
    envelope = trilinear_envelope(7, 2)
    e = envelope[:, None, None] * envelope[:, None] * envelope
    weight, twice = tiny.weight, torch.full((tiny.sums.shape[2],), 2.0, dtype=torch.float64)
    twice[0] = 1.0

    def distance(v: Tensor) -> float:
        V = half_volume(v * e * e, 2, 2)
        seen = weight > 0
        square = (V - tiny.numerator / weight.clamp_min(1e-12)).abs().square() * weight * twice
        return float(square[seen].sum()) / 14**3 / data.mean_weight

    assert data.misfit(x) - data.misfit(y) == pytest.approx(distance(x) - distance(y), rel=1e-6)
