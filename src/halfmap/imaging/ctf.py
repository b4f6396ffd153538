"""The contrast transfer function and the aberrations that go with it, at the coefficients of a Band.

For a coefficient at the spatial frequency f (1/A), as RELION writes it:

    CTF(f)   = -scale exp(-B |f|^2 / 4) sin(gamma)
    gamma(f) = -pi lambda dz(f) |f|^2 + pi/2 Cs lambda^3 |f|^4 - phase_shift - asin(Q) + even(f)
    dz(f)    = (u + v)/2 + (u - v)/2 cos(2 (azimuth(f) - angle)),   underfocus positive

so that CTF(0) = +Q and protein is white (phase: Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216). Symmetric (even)
aberrations add a phase to gamma. Antisymmetric (odd) ones, beam tilt among them, shift the phases of the model (tilt:
Zivanov et al. 2018, eLife 7, e42166; higher orders and anisotropic magnification: Zivanov et al. 2020, IUCrJ 7, 253).
Both are sums of Zernike polynomials of f in 1/A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.runtime.device import sent

# Coefficients evaluated in one pass, so that the float64 phases of a pass stay in the cache.
COEFFICIENTS_PER_PASS = 1 << 19


@dataclass(frozen=True)
class Defocus:
    """The values of each image that its CTF depends on.

    u[b] and v[b]: defocus in A along two axes; angle[b]: radians from x to the axis of u; phase_shift[b]: radians;
    bfactor[b]: A^2; scale[b]: rlnCtfScalefactor.
    """

    u: Tensor
    v: Tensor
    angle: Tensor
    phase_shift: Tensor
    bfactor: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return self.u.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Defocus:
        """The same values for the chosen images."""
        return Defocus(self.u[index], self.v[index], self.angle[index],
                       self.phase_shift[index], self.bfactor[index], self.scale[index])

    def to(self, device: torch.device) -> Defocus:
        """The same values on another device."""
        return Defocus(sent(self.u, device), sent(self.v, device), sent(self.angle, device),
                       sent(self.phase_shift, device), sent(self.bfactor, device), sent(self.scale, device))


def ctf(kxy: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """The CTF[b,k] in float32 of every image at the coefficients kxy[k,2] (cycles per box of the image).

    That of images whose phases were flipped has no negative values, before rlnCtfScalefactor, as in RELION.

    The defocus term is a quadratic form in (kx, ky), so the phases of a batch are one matrix product. Phases reach
    hundreds of radians: they are computed in float64 and reduced to one turn before the sine in float32.
    """
    basis, common = _phase_terms(kxy, optics)
    weights = _image_terms(optics, defocus)
    on_cpu = kxy.device.type == "cpu"  # elsewhere to ask takes longer than to multiply by 1
    scaled = not on_cpu or bool((defocus.scale != 1.0).any())
    damped = not on_cpu or bool((defocus.bfactor != 0.0).any())
    result = torch.empty(len(defocus), kxy.shape[0], dtype=torch.float32, device=kxy.device)
    step = max(1, COEFFICIENTS_PER_PASS // max(1, kxy.shape[0]))
    workspace = torch.empty(min(step, len(defocus)), kxy.shape[0], dtype=torch.float64, device=kxy.device)
    for start in range(0, len(defocus), step):
        part = result[start : start + step]
        turns = torch.addmm(common, weights[start : start + step], basis, out=workspace[: len(part)])
        part.copy_(turns.frac_())
        torch.sin(part.mul_(2.0 * math.pi), out=part)
        if optics.ctf_state is CtfState.PHASE_FLIPPED:
            part.abs_()
        if scaled:
            part *= defocus.scale[start : start + step, None].float()
        if damped:
            part *= _envelope(basis, defocus.bfactor[start : start + step])
    return result


@dataclass(frozen=True)
class Quadratures:
    """A CTF c = scale E sin(x) and what it becomes a quarter of a turn on, scale E cos(x); both float32 [b, k].

    x = -gamma, E the envelope. With a phase d added to gamma the CTF is sine cos(d) - cosine sin(d).
    """

    sine: Tensor
    cosine: Tensor


def quadratures(kxy: Tensor, optics: OpticsGroup, defocus: Defocus) -> Quadratures:
    """The CTF of images that nothing was done to, and its other quadrature, at the coefficients kxy[k,2]."""
    return Quadratures(untouched_ctf(kxy, optics, defocus), quadrature(kxy, optics, defocus))


def untouched_ctf(kxy: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """The CTF [b,k] that images have before anything is done to them about it."""
    return ctf(kxy, replace(optics, ctf_state=CtfState.UNTOUCHED), defocus)


def quadrature(kxy: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """The other quadrature [b,k] of that CTF."""
    ahead = replace(defocus, phase_shift=defocus.phase_shift + 0.5 * math.pi)  # it is subtracted in gamma
    return untouched_ctf(kxy, optics, ahead)


def odd_aberration(kxy: Tensor, optics: OpticsGroup) -> Tensor | None:
    """The phase factor exp(i phi)[k] (complex64) of beam tilt and odd Zernike terms. It multiplies the MODEL.

    phi is odd in k, so the factor of a Friedel mate is the conjugate. Returns None where the group has neither. Tilt
    and Zernike terms add up, as in RELION 5 (3.1 ignores the third-order coma terms where there is a tilt).
    """
    if not optics.has_odd_aberration:
        return None
    f = undistorted(kxy, optics)
    phase = _zernike_sum(f, optics.odd_zernike, odd=True)
    # Axial coma of a beam tilted by (x, y): 2 pi Cs lambda^2 |f|^2 (f . tilt), subtracted as RELION does.
    coma = 2.0 * math.pi * optics.spherical_aberration * 1e7 * optics.wavelength ** 2
    tilt = torch.tensor(optics.beam_tilt, dtype=torch.float64, device=kxy.device) * 1e-3
    phase = phase - coma * f.square().sum(-1) * (f @ tilt)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)


def reference_coordinates(kxy: Tensor, optics: OpticsGroup, box: int, pixel_size: float) -> Tensor:
    """Where coefficients of the image lie in the transform of the reference: float64 [k,2].

    kxy[k,2] is in cycles per box of the image, the result in cycles per box * pixel_size (A) of the reference map. The
    magnification matrix maps frequencies of the image to frequencies of the undistorted specimen (Zivanov et al. 2020,
    IUCrJ 7, 253). The CTF and the aberrations of this module are functions of the latter too.
    """
    return undistorted(kxy, optics) * (box * pixel_size)


def undistorted(kxy: Tensor, optics: OpticsGroup) -> Tensor:
    """Spatial frequencies f[k,2] in 1/A of the undistorted specimen at the coefficients kxy[k,2] of the image."""
    f = kxy.to(torch.float64) / optics.box_length
    if optics.has_distortion:
        f = f @ torch.tensor(optics.magnification, dtype=torch.float64, device=kxy.device).view(2, 2).T
    return f


def _phase_terms(kxy: Tensor, optics: OpticsGroup) -> tuple[Tensor, Tensor]:
    """The functions (fx^2, fx fy, fy^2, 1)[4,k], and the part [k] of -gamma in turns that all images share."""
    f = undistorted(kxy, optics)
    x, y = f.unbind(-1)
    squared = f.square().sum(-1)
    spherical = 0.5 * math.pi * optics.spherical_aberration * 1e7 * optics.wavelength ** 3 * squared.square()
    gamma = spherical + _zernike_sum(f, optics.even_zernike, odd=False)
    return torch.stack([x * x, x * y, y * y, torch.ones_like(x)]), -gamma / (2.0 * math.pi)


def _image_terms(optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """The coefficients [b,4] of the functions of `_phase_terms` in -gamma, in turns, for each image.

    dz(f) |f|^2 = mean |f|^2 + half (cos(2 angle) (fx^2 - fy^2) + sin(2 angle) 2 fx fy).
    """
    u, v, angle = defocus.u.double(), defocus.v.double(), defocus.angle.double()
    mean, half = 0.5 * (u + v), 0.5 * (u - v)
    cosine, sine = half * torch.cos(2.0 * angle), half * torch.sin(2.0 * angle)
    quadratic = 0.5 * optics.wavelength * torch.stack([mean + cosine, 2.0 * sine, mean - cosine], -1)
    constant = (defocus.phase_shift.double() + math.asin(optics.amplitude_contrast)) / (2.0 * math.pi)
    return torch.cat([quadratic, constant[:, None]], -1)


def _envelope(basis: Tensor, bfactor: Tensor) -> Tensor:
    """exp(-B |f|^2 / 4)[b,k] in float32."""
    return torch.outer(-0.25 * bfactor.float(), (basis[0] + basis[2]).float()).exp_()


def _zernike_sum(f: Tensor, coefficients: tuple[float, ...], odd: bool) -> Tensor:
    """The phase [k] in radians of a sum of Zernike polynomials at the frequencies f[k,2], radius in 1/A.

    Coefficients belong to the odd or to the even orders only, by rising order n and then rising m: odd n = 1, 3, 3 ...
    with m = -n, -n+2 ... n. A negative m stands for the sine.
    """
    total = torch.zeros_like(f[..., 0])
    if not any(coefficients):
        return total
    radius, azimuth = _polar(f)
    orders = ((n, m) for n in range(1 if odd else 0, len(coefficients) + 2, 2) for m in range(-n, n + 1, 2))
    for value, (n, m) in zip(coefficients, orders, strict=False):
        if value != 0.0:
            total = total + value * _zernike_at(n, m, radius, azimuth)
    return total


def zernike(f: Tensor, n: int, m: int) -> Tensor:
    """The Zernike polynomial [k] of order n and angular frequency m, the sine if negative, at f[k,2] in 1/A."""
    return _zernike_at(n, m, *_polar(f))


def _polar(f: Tensor) -> tuple[Tensor, Tensor]:
    """Radius [k] and azimuth [k] of f[k,2]."""
    return f.norm(dim=-1), torch.atan2(f[..., 1], f[..., 0])


def _zernike_at(n: int, m: int, radius: Tensor, azimuth: Tensor) -> Tensor:
    return _zernike_radial(n, abs(m), radius) * (torch.cos(m * azimuth) if m >= 0 else torch.sin(-m * azimuth))


def zernike_place(n: int, m: int) -> int:
    """Where the coefficient of a polynomial stands among those of its parity (`OpticsGroup`)."""
    return sum(order + 1 for order in range(n % 2, n, 2)) + (m + n) // 2


def _zernike_radial(n: int, m: int, radius: Tensor) -> Tensor:
    """The radial Zernike polynomial R_n^m (Born & Wolf, Principles of Optics, section 9.2.1)."""
    total = torch.zeros_like(radius)
    for k in range((n - m) // 2 + 1):
        weight = math.comb(n - k, k) * math.comb(n - 2 * k, (n - m) // 2 - k)
        total = total + (-1) ** k * weight * radius ** (n - 2 * k)
    return total
