"""How evenly views sample Fourier space (SCF*), and how far half maps agree in every direction (cFAR)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.shells import hermitian_weights, shell_index_3d
from halfmap.fourier.transform import volume_fft
from halfmap.geometry.orientation_grid import healpix_directions
from halfmap.geometry.symmetry import asymmetric_unit
from halfmap.validation.fsc import GOLD_STANDARD

FOURIER_RADIUS = 50  # shells: the radius at which the authors' program counts slices
MOST_VIEWS = 10_000  # as in the authors' program: SCF* of a set with gaps falls with the number of views
SIDE_VIEWS = 8 / math.pi**2  # SCF of side views alone, which leave no gap: 0.81
LEAST_CFAR = 0.5
UNSAMPLED = 2.0  # a direction without slices counts as having this many
FEW_SLICES = 10.0  # with fewer slices through a direction on average, chance and not the specimen leaves gaps
FEWEST = 20  # a shell with fewer coefficients in a cone is too coarse to be cut into cones
HALF_ANGLE = 20.0  # degrees, of the cones
ORDER = 4  # of the HEALPix grid: 3072 directions, 3.7 degrees apart
UNIT_ORDER = 5  # of the grid where a symmetry leaves less than a third of the directions to be counted
_BLOCK = 1 << 18  # products computed at a time, so that they stay in the cache
_SLAB = 1 << 21  # coefficients whose directions are computed at a time


@dataclass(frozen=True)
class Sampling:
    """How often the central slices of views pass through each direction of Fourier space.

    directions[d,3]: unit vectors over the whole sphere. relative[d]: slices through them, over their mean. views: how
    many are counted, each at ``copies`` equivalent places. sampled: fraction of directions with any slice. by_chance:
    SCF* of as many random views, the best to expect.
    """

    directions: Tensor
    relative: Tensor
    views: int
    copies: int
    sampled: float
    scf_star: float
    by_chance: float

    @property
    def slices(self) -> float:
        """Mean number of slices through a direction. A slice covers |z| < 1 / (2 radius) of the sphere."""
        return self.views * self.copies * 0.5 / FOURIER_RADIUS


@dataclass(frozen=True)
class ConicalFsc:
    """FSC within cones.

    directions[d,3]: their axes, one of each opposite pair. curves[d,s], and whole[s] that of whole shells, s = 0 .. box
    // 2. area[d]: under a curve up to Nyquist, and crossing[d]: where it first falls below 0.143 (box // 2 where it
    never does), both in shells.
    """

    directions: Tensor
    curves: Tensor
    whole: Tensor
    area: Tensor
    crossing: Tensor

    @property
    def cfar(self) -> float:
        """Conical FSC area ratio: the smallest area over the largest. 0 where the half maps disagree in a direction."""
        largest = float(self.area.max())
        return max(float(self.area.min()), 0.0) / largest if largest > 0 else 0.0


def fourier_sampling(views: Tensor, group: Tensor, seed: int = 0) -> Sampling:
    """Sampling compensation factor of view directions[b,3] at all places equivalent under group[o,3,3].

    s(k) is the number of slices within half a Fourier voxel of direction k at a radius of 50 voxels; a view's slice
    contains its Friedel mate too. Let P be the fraction of directions with any slice, Q = 1 - P, <> the mean over all
    directions and <>+ that over the sampled ones. Then (Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160, and
    2021, 160, 53; the constant as in the authors' program)

        SCF = 1 / (<s> <1/s>+),    SCF* = SCF / (1 + (Q / P) <s> SCF / 2)
                                        = P / (<s> (P <1/s>+ + Q / 2)):

    a direction without slices counts as having two, and the whole is multiplied by the fraction sampled. It is the
    factor by which the mean spectral signal-to-noise ratio falls: 1 for even views, 8 / pi^2 = 0.81 for side views
    alone. Of more than 10,000 views as many are drawn, the same ones for the same seed.
    """
    if len(views) > MOST_VIEWS:
        drawn = torch.randperm(len(views), generator=torch.Generator().manual_seed(seed))[:MOST_VIEWS]
        views = views[drawn.to(views.device)]
    views = torch.nn.functional.normalize(views.float(), dim=1)
    directions = healpix_directions(ORDER if len(group) < 3 else UNIT_ORDER).to(views.device)
    unit = directions[asymmetric_unit(directions, group)]
    slices = torch.zeros(len(unit), dtype=torch.float64, device=views.device)
    for operation in group.to(views):
        for part in (views @ operation).split(max(1, _BLOCK // len(unit))):
            slices += ((part @ unit.T.to(part)).abs() < 0.5 / FOURIER_RADIUS).sum(0)
    # All other directions take the count of the equivalent one in the unit, or of the nearest to it on the grid.
    nearness = torch.stack([(directions @ operation @ unit.T).max(1).values for operation in group.to(directions)])
    best = group.to(directions)[nearness.argmax(0)]
    counts = slices[((directions[:, None] @ best)[:, 0] @ unit.T).argmax(1)]
    mean = len(views) * len(group) * 0.5 / FOURIER_RADIUS  # exact; a mean over the grid misses narrow peaks
    some = counts > 0
    sampled = float(some.double().mean())
    star = sampled / (mean * float(torch.where(some, 1 / counts, 1 / UNSAMPLED).mean()))
    return Sampling(directions, counts / mean, len(views), len(group), sampled, star, _by_chance(mean))


def _by_chance(mean: float) -> float:
    """SCF* of random views: the number of slices through a direction is Poisson-distributed with this mean."""
    j = torch.arange(1, int(mean + 12 * math.sqrt(mean)) + 30, dtype=torch.float64)
    share = torch.exp(j * math.log(mean) - mean - torch.lgamma(j + 1))
    none = math.exp(-mean)
    return (1 - none) / (mean * (float((share / j).sum()) + none / UNSAMPLED))


def conical_fsc(half1: Tensor, half2: Tensor, half_angle: float = HALF_ANGLE) -> ConicalFsc:
    """FSC of half1 and half2[z,y,x] within double cones of this half-angle (degrees) about 1536 axes or so.

    As in 3DFSC (Tan et al. 2017, Nat. Methods 14, 793), whose half-angle of 20 degrees cryoSPARC uses too. The sums of
    the FSC are made once by shell and by pixel of a HEALPix grid (3.7 degrees); whole pixels are then added up to
    cones. An area reaches up to Nyquist: beyond the resolution a curve is noise, which adds almost nothing. Shells with
    fewer than 20 coefficients in a cone take the FSC of the whole shell. Float64.
    """
    sums = _pixel_sums(half1, half2)
    directions = healpix_directions(ORDER).to(half1.device)
    axes = directions[directions[:, 2] >= 0]
    inside = (axes @ directions.T).abs() >= math.cos(math.radians(half_angle))
    cross, first, second, members = (sums @ inside.double().T).unbind(0)
    curves = _ratio(cross, first, second)
    whole = _ratio(*sums[:3].sum(2))
    coarse = (members < 2 * FEWEST).any(1)  # both Friedel mates are counted
    curves[coarse] = whole[coarse, None]
    curves, whole = curves.T.contiguous(), whole.clone()
    curves[:, 0], whole[0] = 1.0, 1.0
    return _cones(axes, curves, whole)


def corrected_cones(cones: ConicalFsc, randomised: Tensor, from_shell: int) -> ConicalFsc:
    """The curves of maps under a mask, without the correlation that the mask adds.

    randomised[s] is the FSC of the masked maps with random phases from ``from_shell`` on: (F - R) / (1 - R) from there
    on (Chen et al. 2013, Ultramicroscopy 135, 24), with the same R for all cones.
    """
    noise = randomised.to(cones.curves).clamp(max=0.99)
    noise[:from_shell] = 0.0
    return _cones(cones.directions, (cones.curves - noise) / (1 - noise), (cones.whole - noise) / (1 - noise))


def verdict(sampling: Sampling | None, cones: ConicalFsc | None) -> list[str]:
    """What is wrong with the orientations, in plain sentences; empty where nothing is."""
    found = []
    few = sampling is not None and sampling.slices < FEW_SLICES
    # Few views leave gaps by chance. The limit is then a fraction of the SCF* that random views would have.
    thin = sampling is not None and sampling.scf_star < SIDE_VIEWS * (sampling.by_chance if few else 1)
    if sampling is not None and few and not thin:
        found.append(f"too few views to judge their distribution: {sampling.slices:.2g} slices through a direction on "
                     "average, so that SCF* means little")
    if sampling is not None and thin:
        gaps = (f"; {100 * (1 - sampling.sampled):.1f} % of Fourier space is not sampled at all"
                if sampling.sampled < 1 else "")
        found.append(f"preferred orientation: SCF* is {sampling.scf_star:.2f}, below {SIDE_VIEWS:.2f}, that of side "
                     f"views alone{gaps}; collect tilted images, or change the grid")
    if cones is not None and cones.cfar < LEAST_CFAR:
        cause = "preferred orientation, perhaps with junk" if thin else (
            "preferred orientation or junk" if sampling is None or few
            else "junk, misaligned particles or a mask that cuts the molecule")
        found.append(f"anisotropic map: cFAR is {cones.cfar:.2f}, below {LEAST_CFAR}: {cause}; the resolution of the "
                     "whole map hides it")
    return found


def healpix_pixel(directions: Tensor, order: int) -> Tensor:
    """Number[..] of the HEALPix pixel, in nested numbering, that each unit vector directions[..,3] falls in.

    The inverse of `healpix_directions`, by the same planar projection. There a pixel is a square that stands on a
    corner: turned by 45 degrees the faces lie on an integer lattice (i, j), and row = 1 - i - j.
    """
    x, y, z = directions.unbind(-1)
    longitude = (torch.atan2(y, x) * (4 / math.pi)) % 8.0
    squeeze = (3 * (1 - z.abs())).clamp(min=0).sqrt()
    quarter = torch.floor(longitude / 2)
    middle, cap = 2 * quarter + 1, squeeze <= 1
    across = torch.where(cap, middle + (longitude - middle) * squeeze, longitude)
    height = torch.where(cap, torch.sign(z) * (2 - squeeze), 1.5 * z)
    p, q = (across + height) / 2 + 0.5, (height - across) / 2 + 0.5
    # In a cap the quarter gives the face, because p and q may be whole numbers at the pole and on the seams.
    i = torch.where(cap, quarter + (z > 0).int(), torch.floor(p)).long()
    j = torch.where(cap, -quarter - (z < 0).int(), torch.floor(q)).long()
    row = (1 - i - j).clamp(0, 2)
    face = 4 * row + (i - (row == 0).long()) % 4  # in row 0 the lattice is one step ahead of the column
    u, v = (((t - corner) * 2**order).long().clamp(0, 2**order - 1) for t, corner in ((p, i), (q, j)))
    inside = torch.zeros_like(face)
    for bit in range(order):
        inside |= ((u >> bit & 1) << 2 * bit) | ((v >> bit & 1) << 2 * bit + 1)
    return (face << 2 * order) | inside


def _pixel_sums(half1: Tensor, half2: Tensor) -> Tensor:
    """Sums[4,s,p] over shells and pixels: Re A conj B, |A|^2, |B|^2, and the number of coefficients; float64."""
    box = half1.shape[-1]
    count, pixels = box // 2 + 1, 12 * 4**ORDER
    first, second = volume_fft(half1), volume_fft(half2)
    weights = hermitian_weights(box).to(half1.device)
    k = torch.fft.fftfreq(box, 1 / box, device=half1.device)
    shells = shell_index_3d(box).to(half1.device)
    sums = torch.zeros(4, count * pixels, dtype=torch.float64, device=half1.device)
    step = max(1, _SLAB // first[0].numel())
    for z in range(0, box, step):
        slab = slice(z, z + step)
        shell = shells[slab]
        vectors = torch.stack(torch.broadcast_tensors(k[: box // 2 + 1].abs(), k[:, None], k[slab, None, None]), -1)
        known = (shell > 0) & (shell < count)
        pixel = healpix_pixel(torch.nn.functional.normalize(vectors[known], dim=-1), ORDER)
        index = shell[known] * pixels + pixel
        weight = weights.expand(shell.shape)[known]
        a, b = first[slab][known], second[slab][known]
        cross = (a * b.conj()).real
        powers = (cross, a.abs().square(), b.abs().square(), torch.ones_like(cross))
        for total, values in zip(sums, powers, strict=True):
            total += kernels.sums_at(index, values * weight, count * pixels)
    return sums.view(4, count, pixels)


def _ratio(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    norm = (first * second).sqrt()
    return torch.where(norm > 0, cross / norm.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def _cones(axes: Tensor, curves: Tensor, whole: Tensor) -> ConicalFsc:
    """The cones with areas by the trapezium rule and crossings linear between shells."""
    last = curves.shape[1] - 1
    below = curves < GOLD_STANDARD
    below[:, 0] = False
    crosses = below.any(1)
    s = torch.where(crosses, below.int().argmax(1), last)
    before, after = (curves.gather(1, at[:, None])[:, 0] for at in (s - 1, s))
    part = torch.where(crosses, ((before - GOLD_STANDARD) / (before - after).clamp(min=1e-9)).clamp(0, 1), 1.0)
    return ConicalFsc(axes, curves, whole, torch.trapezoid(curves, dim=1), s - 1 + part)
