"""The cut-off of non-uniform refinement is the one that cross-validation prefers, at every place."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import half_volume
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.local_cutoff import CrossValidation, MapsToCompare, local_cutoff, local_errors
from halfmap.regularisation.local_filter import Butterworth, Lattice, locally_filtered, window_weights
from halfmap.regularisation.nonuniform import NonUniform, agreement_within, shared_noise_gain
from halfmap.regularisation.protocol import HalfSets
from halfmap.validation.fsc import corrected_fsc, fsc

BOX = 64
CANDIDATES = torch.linspace(4, 28, 50, dtype=torch.float64)


def white(seed: int, box: int = BOX) -> Tensor:
    return torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaped(v: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfftn(torch.fft.rfftn(v) * gain, s=v.shape)


def band_limited(seed: int, shell: float, box: int = BOX) -> Tensor:
    """Unit-variance texture without anything beyond a shell."""
    v = shaped(white(seed, box), (frequency_length(box) < shell).double())
    return v / v.std()


def distance(box: int = BOX) -> Tensor:
    x = torch.arange(box, dtype=torch.float64) - box // 2
    return (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).sqrt()


def phantom(core: float, belt: float, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two noisy maps of a core (radius 12, detail to shell ``core``) in a belt (radius 24, to shell ``belt``)."""
    inner = torch.sigmoid(12 - distance())
    outer = torch.sigmoid(24 - distance()) - inner
    s = 3 * inner * band_limited(10 * seed, core) + 3 * outer * band_limited(10 * seed + 1, belt)
    return s + noise * white(10 * seed + 2), s + noise * white(10 * seed + 3)


def errors_of(pair: MapsToCompare, method: CrossValidation) -> Tensor:
    """E_j [j, z, y, x] of all candidates."""
    return torch.stack(list(local_errors(pair, CANDIDATES, method).of_candidates()))


def literal_errors(m1: Tensor, m2: Tensor, candidates: Tensor, method: CrossValidation) -> tuple[Tensor, Tensor]:
    """E_j at the lattice points by the formula as it is printed, one full-size filter after another."""
    box = len(m1)
    where = Lattice.positions(box, max(1.0, method.awf * box / float(candidates[-1]) / 3.0))
    radius, errors, total, before = frequency_length(box).double(), [], 0.0, None
    for f in candidates:
        h = (1 + (radius / f) ** (2 * method.filter.order)) ** (-1.0 if method.filter.squared else -0.5)
        e = (shaped(m1, h) - m2) ** 2 + (shaped(m2, h) - m1) ** 2
        if method.target == "half":
            e = e - 0.5 * shaped(m1 - m2, h) ** 2
        away = (torch.arange(box) - where[:, None]).abs()
        extent = method.awf * box / f
        w = torch.exp(-6 * (away / extent) ** 2)
        if method.window == "box":
            w = (extent / 2 - away + 0.5).clamp(0, 1)
        w = w / w.sum(1, keepdim=True)
        seen = e if method.form == "literal" else (e - before if before is not None else 0 * e)
        mean = torch.einsum("az,zyx->ayx", w, seen)
        mean = torch.einsum("cx,ayx->ayc", w, mean)
        mean = torch.einsum("by,ayc->abc", w, mean)
        total = mean if method.form == "literal" else total + mean
        errors.append(total)
        before = e
    return torch.stack(errors), where


@pytest.mark.parametrize("method", [
    CrossValidation(), CrossValidation(form="literal"), CrossValidation(target="quarter"),
    CrossValidation(window="box", awf=4.0), CrossValidation(Butterworth(4)),
    CrossValidation(Butterworth(8, squared=True), awf=4.0),
], ids=str)  # fmt: skip
def test_the_fast_search_finds_the_cutoff_of_the_literal_formula(method):
    m1, m2 = phantom(22, 9, noise=6)  # signal / noise 1.5 in the core's last shell, as in a map at its limit
    errors, where = literal_errors(m1, m2, CANDIDATES, method)
    found = local_cutoff(MapsToCompare.of(m1.float(), m2.float()), CANDIDATES, method)
    assert found.values.shape == (len(where),) * 3 == errors.shape[1:]
    index = torch.searchsorted(CANDIDATES, found.values.double() - 1e-3)
    away = (index - errors.argmin(0)).abs()
    assert (away <= 1).double().mean() > 0.93 and (away <= 3).double().mean() > 0.98
    least, most = errors.min(0).values, errors.max(0).values
    regret = (errors.gather(0, index[None])[0] - least) / (most - least)
    assert regret.mean() < 1e-3  # little is lost: the error is worse by a thousandth of its range


def test_the_cutoff_rises_in_the_core_and_falls_in_the_belt_and_changes_within_a_window():
    """Truth: detail to shell 22 within 12 voxels of the centre, to shell 9 up to 24 voxels."""
    pair = MapsToCompare.of(*phantom(22, 9, noise=3))
    cutoff = local_cutoff(pair, CANDIDATES, CrossValidation()).on_grid(BOX).double()
    r = distance()
    core, belt = cutoff[r < 9].median(), cutoff[(r > 18) & (r < 23)].median()
    assert 19 < core < 25 and 8 < belt < 11.5
    rings = torch.stack([cutoff[(r - at).abs() < 0.5].median() for at in torch.arange(4.0, 24.0)])
    boundary = 4.0 + float(torch.nonzero(rings < (core + belt) / 2)[0])
    assert abs(boundary - 12) < 3 * BOX / 22  # gamma wavelengths of the core's detail


def test_noise_alone_gets_the_lowest_cutoff_nearly_everywhere():
    found = local_cutoff(MapsToCompare.of(white(1), white(2)), CANDIDATES, CrossValidation()).on_grid(BOX)
    assert (found < CANDIDATES[1]).double().mean() > 0.97


def test_scaling_the_data_leaves_the_cutoff_and_rotation_and_mirror_commute_with_it():
    m1, m2 = phantom(20, 8, seed=1)
    found = local_cutoff(MapsToCompare.of(m1, m2), CANDIDATES, CrossValidation())
    scaled = local_cutoff(MapsToCompare.of(1e3 * m1, 1e3 * m2), CANDIDATES, CrossValidation())
    assert torch.equal(scaled.values, found.values)

    def turned(v: Tensor) -> Tensor:
        """Turned by 90 degrees about z and then about x, around the centre voxel (periodic, as the FFT is)."""
        v = torch.roll(v.transpose(1, 2).flip(1), 1, dims=1)
        return torch.roll(v.transpose(0, 1).flip(0), 1, dims=0)

    rotated = local_cutoff(MapsToCompare.of(turned(m1), turned(m2)), CANDIDATES, CrossValidation()).values
    expected = found.values.transpose(1, 2).flip(1).transpose(0, 1).flip(0)
    inside = (slice(3, -3),) * 3  # the outermost windows reach over the edge, which the rotation moves
    assert ((rotated - expected)[inside].abs() < 0.6).double().mean() > 0.99


def test_wide_windows_spoil_the_literal_comparison_and_steps_cure_it():
    """Poses are not exact, so the maps differ more inside the molecule than in the solvent. The literal form compares
    the molecule, seen through a narrow window, with solvent, seen through a wide one, and prefers the wide one."""
    inside = torch.sigmoid((12 - distance()) / 0.7)
    s = 4 * inside * band_limited(3, 20)
    m1, m2 = (s + (1 + inside) * white(seed) for seed in (4, 5))
    candidates = torch.linspace(3, 24, 40, dtype=torch.float64)
    core = distance() < 5
    literal, steps = (
        local_cutoff(MapsToCompare.of(m1, m2), candidates, CrossValidation(form=form)).on_grid(BOX)[core].median()
        for form in ("literal", "increment")
    )
    assert literal < 5  # shell 5 of a molecule known to shell 20
    assert 15 < steps < 24


def test_equal_windows_make_both_forms_the_same():
    m1, m2 = phantom(20, 8, seed=2)
    wide = CrossValidation(awf=1e4, form="literal")
    pair = MapsToCompare.of(m1, m2)
    one, other = (errors_of(pair, replace(wide, form=form)) for form in ("literal", "increment"))
    one = one - one[0]
    assert torch.allclose(one, other, rtol=1e-6, atol=1e-6 * float(one.abs().max()))


def test_quarter_maps_drop_detail_that_the_half_map_could_keep_and_the_other_target_keeps_it():
    """Stationary signal S(k) over noise N: a quarter gains from a shell where S > N, the half where S > N / 2."""
    k = frequency_length(BOX).double()
    power = (12 / k.clamp_min(1)) ** 4  # S = N at shell 12, S = N / 2 at 12 * 2^(1/4) = 14.3
    s = shaped(white(6), power.sqrt())
    m1, m2 = s + white(7), s + white(8)
    found = {target: local_cutoff(MapsToCompare.of(m1, m2), CANDIDATES, CrossValidation(target=target)).values.double()
             .mean() for target in ("quarter", "half")}
    assert found["quarter"] == pytest.approx(12, rel=0.08) and found["half"] == pytest.approx(14.3, rel=0.08)


def test_with_one_window_and_a_free_value_per_shell_the_best_gain_is_the_fsc():
    """Punjani et al. (2020), Results: the best shift-invariant filter under cross-validation is the FSC."""
    m1, m2 = phantom(20, 8, seed=3)
    shell = frequency_length(BOX).round().long().flatten()
    twice = torch.full((BOX // 2 + 1,), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0
    f1, f2 = torch.fft.rfftn(m1), torch.fft.rfftn(m2)
    power, cross = (
        torch.bincount(shell, (values * twice).flatten()) / BOX**6
        for values in (f1.abs() ** 2 + f2.abs() ** 2, (f1 * f2.conj()).real)
    )
    # the search's E_j, with a window wider than the box, is this quadratic form of the gains
    wide = CrossValidation(awf=1e4, target="quarter")
    errors = errors_of(MapsToCompare.of(m1, m2), wide).mean(dim=(1, 2, 3))
    s = torch.arange(len(power), dtype=torch.float64)
    gains = (1 + (s / CANDIDATES[:, None]) ** 16).rsqrt()
    expected = (gains**2 * power - 4 * gains * cross).sum(1)
    assert torch.allclose(errors, expected - expected[0], rtol=0.03, atol=0.01 * float(expected.abs().max()))
    # the minimiser over free gains, by descent
    free = torch.zeros_like(power, requires_grad=True)
    for _ in range(200):
        (slope,) = torch.autograd.grad((free**2 * power - 4 * free * cross).sum(), free)
        free = (free - 0.4 * slope / power).detach().requires_grad_()
    assert torch.allclose(free, 2 * cross / power, atol=1e-6)
    assert (free**2 * power - 4 * free * cross).sum() < expected.min()


@pytest.mark.parametrize(("shape", "close"), [
    (Butterworth(), 0.03), (Butterworth(4), 0.07), (Butterworth(8, squared=True), 0.03)], ids=str)  # fmt: skip
def test_each_place_gets_the_filter_of_its_own_cutoff(shape, close):
    m = white(9)
    r = torch.arange(-10, 11, dtype=torch.float64)
    smooth = 6 + 18 * torch.exp(-(r[:, None, None] ** 2 + r[:, None] ** 2 + r**2) / 80)
    cutoff = Lattice(smooth, 3.0, BOX)
    filtered = locally_filtered(m, cutoff, shape)
    wanted, place = torch.zeros_like(m), cutoff.on_grid(BOX)
    k = frequency_length(BOX).double()
    for f in torch.arange(6.0, 24.5, 0.25):  # voxel by voxel: the filter of the nearest of many cut-offs
        here = shaped(m, (1 + (k / f) ** (2 * shape.order)) ** (-1.0 if shape.squared else -0.5))
        wanted = torch.where((place - f).abs() <= 0.125, here, wanted)
    assert (filtered - wanted).std() < close * wanted.std()


def test_one_cutoff_everywhere_is_the_plain_filter():
    m, k = white(10), frequency_length(BOX).double()
    filtered = locally_filtered(m, Lattice(torch.full((9, 9, 9), 11.0, dtype=torch.float64), 7.0, BOX), Butterworth())
    wanted = shaped(m, (1 + (k / 11.0) ** 16).rsqrt())
    assert (filtered - wanted).std() < 0.03 * wanted.std()  # grids end where the filter has fallen to a few per cent


def directions(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Weight of a coefficient at (z, y, x) where views are uneven: next to nothing near the axis z."""
    return torch.where(z.abs() > (y.square() + x.square()).sqrt(), 0.02, 1.4)


def flat_statistics(v: Tensor, limit: int, uneven: bool = False) -> Backprojection:
    """Sums in which every coefficient of the map was measured once, or with the weights of ``directions``."""
    transform = half_volume(v, 2, limit)
    weight = torch.ones_like(transform.real)
    if uneven:
        q = torch.arange(-(weight.shape[2] - 1), weight.shape[2])
        weight *= directions(q[:, None, None], q[:, None], q[weight.shape[2] - 1 :])
    sums = torch.stack([transform.real * weight, transform.imag * weight, weight], dim=-1)
    return Backprojection(sums.contiguous(), len(v), 2, limit, folded=True)


def half_sets(seed: int = 0, uneven: bool = False) -> HalfSets:
    s, k = phantom(20, 8, noise=0.0)[0], torch.fft.fftfreq(BOX)
    spread = directions(k[:, None, None], k[:, None], k[: BOX // 2 + 1]).rsqrt() if uneven else 1.0

    def quarter(h: int, q: int) -> Backprojection:
        noise = torch.fft.irfftn(torch.fft.rfftn(white(20 + seed * h + 2 * h + q)) * spread, s=(BOX,) * 3)
        return flat_statistics((s + noise).float(), 30, uneven)

    quarters = [[quarter(h, q) for q in (0, 1)] for h in (0, 1)]

    def curves(a: Tensor, b: Tensor):
        return corrected_fsc(a, b, spherical_mask(BOX, 26, 4), torch.Generator().manual_seed(0))

    sums = tuple(tuple(pair) for pair in quarters)
    return HalfSets.build(sums, torch.eye(3, dtype=torch.float64)[None], 2.0, curves)


def test_nothing_passes_from_one_half_set_to_the_other():
    mask = spherical_mask(BOX, 26, 4)
    method = NonUniform(aligned_noise="ignored", uneven_sampling="ignored")
    one, other = (method.solve(half_sets(seed), mask, {}) for seed in (0, 50))
    assert torch.equal(one.maps[0], other.maps[0])  # half 1 is the same in both, half 2 is not
    assert not torch.equal(one.maps[1], other.maps[1])


@pytest.mark.parametrize("sampling", ["ignored", "corrected"])
def test_corrections_carry_the_fsc_across_and_nothing_else(sampling, monkeypatch):
    first, second = half_sets(0), half_sets(50)
    mask, method = spherical_mask(BOX, 26, 4), NonUniform(uneven_sampling=sampling)
    curve = agreement_within(mask, [first.evened(h, 30, BOX) for h in (0, 1)])
    one = method.solve(first, mask, {})
    monkeypatch.setattr("halfmap.regularisation.nonuniform.agreement_within", lambda *_: curve)
    other = method.solve(replace(second, curves=first.curves), mask, {})
    assert torch.equal(one.maps[0], other.maps[0]) and not torch.equal(one.maps[1], other.maps[1])


def test_noise_that_quarter_maps_share_is_taken_for_noise():
    """The noise of two quarter maps correlates by 0.3, as noise aligned to one reference does, that of half maps does
    not. So what the quarters agree on is not real, and with the correction only the lowest cut-off is chosen."""
    shared = white(30)
    m1, m2 = (math.sqrt(0.3) * shared + math.sqrt(0.7) * white(seed) for seed in (31, 32))
    pair = MapsToCompare.of(m1, m2)
    curve = fsc(m1, m2)
    assert float(curve[8:].mean()) == pytest.approx(0.3, abs=0.02)
    gain = shared_noise_gain(curve, torch.zeros_like(curve))
    assert gain[8:].numpy() == pytest.approx(math.sqrt(1.3 / 0.7), rel=0.05)
    fooled = local_cutoff(pair, CANDIDATES, CrossValidation()).on_grid(BOX)
    mended = local_cutoff(replace(pair, noise_gain=gain), CANDIDATES, CrossValidation()).on_grid(BOX)
    assert (fooled > CANDIDATES[20]).double().mean() > 0.4
    assert (mended < CANDIDATES[1]).double().mean() > 0.85


def test_signal_is_left_alone_by_the_correction():
    """Quarter maps that share nothing but signal predict the FSC of the half maps, so nothing is corrected."""
    s = band_limited(33, 20)
    q = [s + white(seed) for seed in (34, 35, 36, 37)]
    halves = fsc(q[0] + q[1], q[2] + q[3])
    assert float((shared_noise_gain(fsc(q[0], q[1]), halves)[4:] - 1).mean()) < 0.02


def test_directions_of_few_views_do_not_spoil_the_references():
    """Well-seen directions lose nothing to the noise of the others, the others gain, and even views do not change."""
    truth, mask, k = phantom(20, 8, noise=0.0)[0], spherical_mask(BOX, 26, 4), torch.fft.fftfreq(BOX)
    well_seen = directions(k[:, None, None], k[:, None], k[: BOX // 2 + 1]) > 1
    for sets, most in ((half_sets(uneven=True), 0.95), (half_sets(), 1.001)):
        errors = []
        for sampling in ("corrected", "ignored"):
            error = (NonUniform(uneven_sampling=sampling).solve(sets, mask, {}).maps[0].double() - truth) * mask
            power = torch.fft.rfftn(error).abs().square()
            errors.append((float(power[well_seen].sum().sqrt()), float(power[~well_seen].sum().sqrt())))
        (seen, unseen), (plain_seen, plain_unseen) = errors
        assert seen < most * plain_seen and unseen < most * plain_unseen, errors


def test_the_references_are_closer_to_the_truth_than_one_filter_for_all():
    halves, truth, mask = half_sets(), phantom(20, 8, noise=0.0)[0], spherical_mask(BOX, 26, 4)
    solution = NonUniform().solve(halves, mask, {})
    k = frequency_length(BOX).double()

    def error(m: Tensor) -> float:
        return float(((m.double() - truth) * mask).square().mean().sqrt())

    best = min(error(shaped(halves.raw[0].double(), (1 + (k / f) ** 16).rsqrt())) for f in torch.arange(6.0, 31.0))
    assert error(solution.maps[0]) < 0.9 * best
    theta = solution.arrays["theta"]
    assert theta[distance() < 8].median() == pytest.approx(2 * BOX / 20, rel=0.2)  # angstrom


def test_a_wish_for_finer_or_coarser_candidates_is_granted():
    m1, m2 = phantom(20, 8)
    mask = spherical_mask(BOX, 26, 4)
    regulariser = NonUniform(coarsest=40.0, finest=5.0, candidates=7)
    curve = fsc(m1 * mask, m2 * mask)
    assert torch.allclose(regulariser.cutoffs(curve, 2.0 * BOX, 31), torch.linspace(3.2, 25.6, 7).double(), atol=1e-5)
    automatic = NonUniform().cutoffs(curve, 2.0 * BOX, 31)
    assert len(automatic) == 50 and automatic[0] == pytest.approx(128 / 30) and 20 < automatic[-1] <= 31
    steps = automatic.diff()
    assert torch.allclose(steps, steps[0])


def test_a_window_holds_no_number_that_float32_cannot_hold_in_full():
    weight = window_weights(torch.arange(256, dtype=torch.float64), 256, 256, 12.0, "gaussian").float()
    assert float(weight[weight > 0].min()) > torch.finfo(torch.float32).tiny
    assert float((weight.sum(dim=1) - 1).abs().max()) < 1e-6
