"""What `halfmap inspect` says about particles: facts, faults that would stop a refinement, and what is worth a look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from halfmap.imaging.optics import CtfState, names_of
from halfmap.particles.stack import SeenStack
from halfmap.particles.table import ParticleTable
from halfmap.refinement.curvature import go_beyond, thickness
from halfmap.workflows.inspect_images import MASKED, GroupSpectra, Looked

MOST_LISTED = 12  # lines for optics groups that differ
FEWEST = 32  # images in which Thon rings should be seen; with 16 real ones show none


class Fact(NamedTuple):
    """A line of what was found."""

    name: str
    text: str


def table_facts(table: ParticleTable, stacks: list[SeenStack]) -> list[Fact]:
    """What the table says, in words."""
    held = table.micrographs
    where = "micrographs that are not named" if held is None else (
        f"{len(held):,} micrographs ({held.min()} to {held.max()} each)")
    files = len({s.path for s in stacks})
    facts = [Fact("particles", f"{len(table):,} of {where}, in {files:,} stack{'s' if files > 1 else ''}")]
    facts += _optics_facts(table)
    u, v = table.defocus.u.numpy(), table.defocus.v.numpy()
    mean = 0.5e-4 * (u + v)
    plate = "; phase plate" if bool(table.defocus.phase_shift.any()) else ""
    facts.append(Fact("defocus", f"{mean.min():.2f} to {mean.max():.2f} um, median {np.median(mean):.2f}; astigmatism "
                  f"{np.median(np.abs(u - v)):.0f} A{plate}"))
    if table.half is None:
        one = table.columns.get("rlnRandomSubset")
        why = "" if one is None else f" (rlnRandomSubset is {one[0]} in all rows)"
        facts.append(Fact("half sets", f"none{why}; a refinement draws them"))
    else:
        facts.append(Fact("half sets", " and ".join(f"{n:,}" for n in np.bincount(table.half, minlength=2))))
    if table.rotations is None and not table.flat:
        facts.append(Fact("poses", "none; a refinement finds them"))
    else:
        spread = float(table.origins.square().mean().sqrt())
        kind = "angles of a 2D classification (no tilt)" if table.flat else "angles"
        facts.append(Fact("poses", f"{kind}, and shifts of {spread:.1f} A along an axis (rms)"))
    kinds = sorted({str(s.header.dtype) for s in stacks if s.header is not None})
    facts.append(Fact("values", ", ".join(kinds) or "no stack can be read"))
    return facts


def _optics_facts(table: ParticleTable) -> list[Fact]:
    """A line for all optics groups of which the same can be said."""
    alike: dict[str, list[int]] = {}
    for number, group in enumerate(table.optics):
        extra = [word for word, there in (("beam tilt or odd aberrations", group.has_odd_aberration),
                                          ("even aberrations", any(group.even_zernike)),
                                          ("anisotropic magnification", group.has_distortion),
                                          (group.ctf_state.value, group.ctf_state is not CtfState.UNTOUCHED)) if there]
        said = (f"images of {group.box} px of {group.pixel_size:.4g} A, {group.voltage:g} kV, Cs "
                f"{group.spherical_aberration:g} mm, amplitude contrast {group.amplitude_contrast:g}")
        alike.setdefault(", ".join([said, *extra]), []).append(number)
    counts = np.bincount(table.optics_index, minlength=len(table.optics))
    facts = [Fact(f"optics {names_of([table.optics[number] for number in numbers])}",
                  f"{int(counts[numbers].sum()):,} {said}") for said, numbers in alike.items()]
    if len(facts) <= MOST_LISTED:
        return facts
    rest = len(facts) - MOST_LISTED
    return [*facts[:MOST_LISTED], Fact("optics", f"{rest:,} more kinds of optics groups")]


def flat_slices_fact(table: ParticleTable, diameter: float) -> Fact:
    """To which resolution the curvature of the Ewald sphere does not matter to a particle of this diameter (A)."""
    beyond = "beyond, refine --ewald auto corrects for it" if go_beyond(table, diameter) else "images do not go so far"
    return Fact("Ewald sphere", f"{thickness(table, diameter)}; {beyond}")


def image_facts(looked: Looked) -> list[Fact]:
    """What images look like, in words."""
    bad = [f"{count} {what}" for what, count in looked.faulty.items() if count]
    said = f"{looked.count:,} looked at: {', '.join(bad) if bad else 'none faulty'}; {looked.doubtful} stand out"
    facts = [Fact("images", said)]
    known = [group for group in looked.spectra if group.with_ctf]
    facts += [Fact(f"Thon rings {group.name}", f"{_seen(group)}, in {group.rings.images:,} images")
              for group in known[:MOST_LISTED]]
    if len(known) > MOST_LISTED:
        reached = sum(group.rings.reach > 0 for group in known[MOST_LISTED:])
        facts.append(Fact("Thon rings", f"{len(known) - MOST_LISTED:,} more kinds of optics groups, seen in "
                          f"{reached:,}"))
    if known:
        words = {True: "protein is bright", False: "protein is dark", None: "not clear whether protein is bright"}
        facts.append(Fact("contrast", f"{words[looked.contrast.bright]}, in {looked.contrast.images:,} images"))
    return facts


def _seen(group: GroupSpectra) -> str:
    if group.rings.reach:
        return f"to {group.box * group.pixel_size / group.rings.reach:.1f} A"
    return "not seen" if group.rings.images >= FEWEST else "too few images to see them"


def image_faults(looked: Looked) -> list[str]:
    bad = {what: count for what, count in looked.faulty.items() if count}
    if sum(bad.values()) <= 0.1 * looked.count:
        return []
    masked = ("; a refinement measures the noise there: give a smaller --diameter, or images that were not masked"
              if MASKED in bad else "")
    return [f"{sum(bad.values())} of {looked.count} images are {', '.join(bad)}{masked}; check how the stack was "
            "written"]


def image_notes(looked: Looked, inverted: bool = False) -> list[str]:
    notes = []
    if looked.contrast.bright is False:
        notes.append("protein is dark in the images as they are read, and a refinement takes it to be bright; "
                     f"{'leave out' if inverted else 'give'} --invert-contrast")
    bad = sum(looked.faulty.values())
    if 0 < bad <= 0.1 * looked.count:
        notes.append(f"{bad} of {looked.count} images are faulty; a refinement sets such aside in rejected.star")
    if looked.worst:
        notes.append("images that stand out from their stack the most: " + ", ".join(looked.worst))
    blind = [group for group in looked.spectra
             if group.with_ctf and not group.rings.reach and group.rings.images >= FEWEST]
    notes += [f"optics group {group.name}: no Thon rings where the CTF says; too few images to see them (--images), or "
              "defocus, voltage or pixel size are wrong" for group in blind[:MOST_LISTED]]
    if len(blind) > MOST_LISTED:
        notes.append(f"{len(blind) - MOST_LISTED:,} more kinds of optics groups show no Thon rings either")
    return notes


