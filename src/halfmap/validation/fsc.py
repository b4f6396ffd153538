"""Fourier shell correlation of half maps, with and without a mask, and a plain verdict on the curves.

FSC(s) = Re sum_s A conj(B) / sqrt(sum_s |A|^2 sum_s |B|^2) over all coefficients with round(|k|) = s (Harauz and van
Heel 1986, Optik 73:146). The correlation that a mask adds is removed by phase randomisation (Chen et al. 2013,
Ultramicroscopy 135:24), with the two-shell margin of relion_postprocess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.finding import Finding
from halfmap.fourier.real_transforms import irfftn, rfftn
from halfmap.fourier.shells import hermitian_weights, shell_index_3d
from halfmap.maps.masks import spherical_mask
from halfmap.validation.halfmaps import null_band

GOLD_STANDARD = 0.143  # half maps: Rosenthal and Henderson 2003, J. Mol. Biol. 333:721
RANDOMISED_LIMIT = 0.05  # if randomised maps correlate by more than this, the mask contributes to the resolution
# Holds for nearly every masked FSC, so it is no warning.
QUOTE_CORRECTED = Finding("quote the corrected FSC", "the masked FSC reaches further than the corrected one: quote the "
                          "corrected one", "FSC", "note")
FLAT = "FSC never falls to zero"
WORSE = 0.85  # share of the unmasked crossing; a mask around the molecule lets the curve cross further out
SPHERE = 0.85  # radius of the spherical mask where none is given, as a fraction of half the box
_MARGIN_SHELLS = 2  # so many shells from the start of randomisation on mix kept and random coefficients


@dataclass(frozen=True)
class FscCurves:
    """Half-map correlations by shell [s], float64, s = 0 .. box // 2 (shell 0 is 1 by definition).

    masked, randomised and corrected belong to the given mask, spherical to a spherical one. from_shell is the first
    shell whose phases were randomised.
    """

    unmasked: Tensor
    spherical: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    from_shell: int


def fsc(a: Tensor, b: Tensor) -> Tensor:
    """Fourier shell correlation of two maps a, b[z,y,x]: float64 [s], s = 0 .. box // 2.

    Sums run in float64 over both halves of the transform. Shell 0 is 1; a shell without power is 0.
    """
    columns = hermitian_weights(a.shape[-1]).to(a.device)
    # Where the origin lies makes no difference.
    cross, power_a, power_b = kernels.shell_products(rfftn(a), rfftn(b), columns).unbind(1)
    norm = power_a.sqrt() * power_b.sqrt()
    curve = torch.where(norm > 0, cross / norm.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    curve[0] = 1.0
    return curve


def crossing_shell(curve: Tensor, threshold: float) -> float | None:
    """Where curve[s] first falls below threshold, coming from low resolution, in fractional shells.

    Linear between shells. None if it never does. Shell 0 is left out.
    """
    below = torch.nonzero(curve[1:] < threshold)
    if len(below) == 0:
        return None
    s = int(below[0]) + 1
    before, after = float(curve[s - 1]), float(curve[s])
    if s == 1 or before < threshold:
        return 1.0
    return s - 1 + (before - threshold) / (before - after)


def resolution(curve: Tensor, box: int, pixel_size: float, threshold: float = GOLD_STANDARD) -> float:
    """Resolution in A where the FSC curve[s] first falls below threshold, linear between shells.

    Returns 2 pixel_size (Nyquist) if it never does, and the box length if the first shell is below already.
    """
    shell = crossing_shell(curve, threshold)
    return 2 * pixel_size if shell is None else box * pixel_size / shell


def randomise_phases(v: Tensor, from_shell: int, generator: torch.Generator, kept: Tensor | None = None) -> Tensor:
    """Map v[z,y,x] with random phases in all shells >= from_shell and with its own amplitudes. kept: its transform
    (`rfftn`), where that is known.

    The new phases are those of white noise drawn in real space. They are uniform, independent and Hermitian, also on
    the planes where a coefficient is its own Friedel mate. Returns a new map of the same dtype and device.
    """
    noise = torch.randn(v.shape, generator=generator, device=generator.device, dtype=v.dtype).to(v.device)
    phase, V = torch.sgn(rfftn(noise)), rfftn(v) if kept is None else kept
    beyond = shell_index_3d(v.shape[-1]).to(v.device) >= from_shell
    return irfftn(torch.where(beyond, V.abs() * phase, V), v.shape[-1])


def corrected_fsc(
    half1: Tensor,
    half2: Tensor,
    mask: Tensor,
    generator: torch.Generator,
    randomise_below: float = 0.8,
    sphere_radius: float | None = None,
    draws: int = 1,
) -> FscCurves:
    """All half-map curves for one mask[z,y,x], with the correlation that the mask adds removed.

    Phases of both maps are randomised from the first shell with an unmasked FSC below randomise_below on. With F_t the
    masked FSC and F_n that of the randomised masked maps, the corrected curve is (F_t - F_n) / (1 - F_n) from two
    shells further on, and F_t before (Chen et al. 2013). F_n is the mean of ``draws`` randomisations: one alone can
    move a shallow crossing by several shells. The same generator state gives the same curves. The mask of the spherical
    curve has the radius sphere_radius (voxels; default 0.85 of half the box).
    """
    box = half1.shape[-1]
    unmasked = fsc(half1, half2)
    radius = SPHERE * box / 2 if sphere_radius is None else sphere_radius
    sphere = spherical_mask(box, radius, (1 - SPHERE) * box / 2).to(half1)
    spherical = fsc(half1 * sphere, half2 * sphere)
    mask = mask.to(half1)
    masked = fsc(half1 * mask, half2 * mask)
    below = torch.nonzero(unmasked[1:] < randomise_below)
    if len(below) == 0:  # nothing to randomise: the maps agree up to Nyquist
        return FscCurves(unmasked, spherical, masked, masked, masked, box // 2 + 1)
    start = int(below[0]) + 1
    kept = [(half, rfftn(half)) for half in (half1, half2)]
    randomised = torch.stack([
        fsc(*(randomise_phases(half, start, generator, known) * mask for half, known in kept)) for _ in range(draws)
    ]).mean(dim=0)
    corrected = (masked - randomised) / (1 - randomised).clamp(min=1e-6)
    corrected[: start + _MARGIN_SHELLS] = masked[: start + _MARGIN_SHELLS]
    return FscCurves(unmasked, spherical, masked, randomised, corrected, start)


def mask_verdict(curves: FscCurves, box: int, pixel_size: float) -> list[Finding]:
    """What is wrong with these curves and their mask."""
    findings = _worse_within(curves, box, pixel_size)
    crossing = crossing_shell(curves.corrected, GOLD_STANDARD)
    apparent = crossing_shell(curves.masked, GOLD_STANDARD)
    if crossing is not None:
        first = max(round(crossing) - 1, curves.from_shell + _MARGIN_SHELLS)
        around = curves.randomised[first : round(crossing) + 2]  # three shells, because one alone is noisy
        chance = 2 * float(null_band(box)[min(max(round(crossing), 1), box // 2)])
        if len(around) and float(around.mean()) > RANDOMISED_LIMIT + chance:
            findings.append(
                Finding(
                    "mask too tight",
                    "mask too tight or too sharp: phase-randomised maps have an FSC of "
                    f"{float(around.mean()):.2f} at the reported {box * pixel_size / crossing:.2f} A; "
                    "widen the mask or its soft edge",
                    "mask",
                )
            )
        if apparent is None or apparent > crossing + 2:
            findings.append(QUOTE_CORRECTED)
    else:
        findings.append(
            Finding(
                "corrected FSC never falls",
                f"the corrected FSC never falls below {GOLD_STANDARD}: the maps are limited by Nyquist "
                f"({2 * pixel_size:.2f} A), or the half sets share particles or noise",
                "FSC",
            )
        )
    return findings + _shape_findings(curves.unmasked, box, pixel_size)


def _worse_within(curves: FscCurves, box: int, pixel_size: float) -> list[Finding]:
    """A finding where the half maps agree less within the mask than without one, though it removes noise only."""
    whole, inside = (crossing_shell(curve, GOLD_STANDARD) for curve in (curves.unmasked, curves.masked))
    if inside is None or inside > WORSE * (box / 2 if whole is None else whole):
        return []
    length = box * pixel_size
    reached = "Nyquist" if whole is None else f"{length / whole:.2f} A"
    text = (f"within the mask the half maps agree to {length / inside:.2f} A only, in the whole box to {reached}: "
            "either the mask misses the molecule (is it inverted, or drawn in another frame?), or it holds its least "
            "ordered part only")
    return [Finding("worse within the mask", text, "mask")]


def _shape_findings(unmasked: Tensor, box: int, pixel_size: float) -> list[Finding]:
    """Findings about an unmasked curve[s] that does not fall to zero once and stay there."""
    crossing = crossing_shell(unmasked, GOLD_STANDARD)
    if crossing is None:
        return [Finding(FLAT, "the unmasked FSC never falls to zero: duplicates, shared noise, or Nyquist-limited maps",
                        "FSC")]
    # Means over three shells; smooth[i] is centred on shell i + 2.
    smooth = unmasked[1:].unfold(0, min(3, len(unmasked) - 1), 1).mean(dim=1)
    lowest = torch.cummin(smooth, dim=0).values
    rise = smooth - lowest - 4 * null_band(box)[2 : len(smooth) + 2].to(smooth)
    top = int(rise.argmax())
    if float(rise[top]) > 0.1 and float(smooth[top]) > GOLD_STANDARD:
        bottom = int(smooth[: top + 1].argmin())
        low, high = (f"{float(smooth[i]):.2f} at {box * pixel_size / (i + 2):.1f} A" for i in (bottom, top))
        return [
            Finding(
                "FSC dips and rises",
                f"the unmasked FSC dips to {low} and rises again to {high}: CTF zeros of too few defocus "
                "values or of wrong ones, a mask or filter left in the half maps, or shared noise",
                "FSC",
            )
        ]
    chance = 4 * float(null_band(box)[-1])
    if len(smooth) > crossing + 2 and float(lowest[-1]) > RANDOMISED_LIMIT + chance:
        return [Finding(
            FLAT,
            f"the unmasked FSC levels off at {float(lowest[-1]):.2f} and never falls to zero: duplicated "
            "particles or noise shared by the half sets",
            "FSC",
        )]
    return []


def tail_verdict(curves: FscCurves, box: int, pixel_size: float) -> list[Finding]:
    """Findings about curves that are not zero beyond the resolution, where they should be.

    These are an unmasked curve that stays up over the last tenth of its shells (duplicated particles), and a corrected
    one that rises above 0.143 again. What `mask_verdict` says already is left out.
    """
    crossing = crossing_shell(curves.unmasked, GOLD_STANDARD)
    findings = []
    last = max((len(curves.unmasked) - 1) // 10, 3)
    tail = float(curves.unmasked[-last:].mean())
    chance = 4 * float(null_band(box)[-last:].square().mean()) ** 0.5 / last**0.5
    told = any(one.name == FLAT for one in _shape_findings(curves.unmasked, box, pixel_size))
    if crossing is not None and not told and crossing < box // 2 - last and tail > RANDOMISED_LIMIT + chance:
        findings.append(Finding(
            FLAT,
            f"the unmasked FSC is still {tail:.2f} next to the Nyquist frequency: duplicated particles or noise shared "
            "by the half sets are the usual reason",
            "FSC",
        ))
    crossing = crossing_shell(curves.corrected, GOLD_STANDARD)
    if crossing is not None and len(curves.corrected) > crossing + 4:
        first = int(crossing) + 2
        smooth = curves.corrected[first:].unfold(0, min(3, len(curves.corrected) - first), 1).mean(dim=1)
        back = torch.nonzero(smooth > GOLD_STANDARD)
        if len(back):
            finest = first + int(back[-1]) + 1
            coarse, fine = (f"{box * pixel_size / shell:.2f} A" for shell in (crossing, finest))
            findings.append(
                Finding(
                    "corrected FSC comes back",
                    f"the corrected FSC falls below {GOLD_STANDARD} at {coarse} and comes back above it as far as "
                    f"{fine}: quote the coarser figure, and look for shared noise or a mask that cuts into density",
                    "FSC",
                )
            )
    return findings


def write_fsc_xml(
    path: Path, curve: Tensor, box: int, pixel_size: float, title: str = "Halfmap masked-corrected FSC"
) -> None:
    """Write one curve[s] in the XML format of EMDB (x in 1/A); the file appears complete or not at all.

    Raises InputError where it cannot be written.
    """
    from halfmap.maps.mrc import replaced_atomically

    head = f'<fsc title={quoteattr(title)} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">'
    lines = [head]
    for s, value in enumerate(curve.tolist()):
        x = f"<x>{s / (box * pixel_size):.6f}</x>"
        lines += ["  <coordinate>", f"    {x}", f"    <y>{value:.6f}</y>", "  </coordinate>"]
    lines.append("</fsc>")
    with replaced_atomically(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode("ascii", errors="xmlcharrefreplace"))
