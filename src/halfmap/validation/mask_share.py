"""How much of a molecule a mask or a diameter holds: what misses most of it was drawn elsewhere, or is inverted."""

from __future__ import annotations

from torch import Tensor

from halfmap.finding import Finding
from halfmap.maps.density import Density

WHOLE = 0.5  # share of the density; a mask around a whole particle holds more
PART = 0.1  # the same of a mask around a part of it, and the share of its own volume that density fills
SPHERE = 0.85  # share of the density that the diameter holds, if it is that of the particle


def share_verdict(density: Density | None, mask: Tensor, name: str, partial: bool) -> list[Finding]:
    """A finding where a mask [z, y, x] misses the density. name: of its file. partial: whether it may hold a part only.

    A small part of a large particle is a small share, but fills its mask.
    """
    if density is None:
        return []
    share, filled = density.held_by(mask), density.filled_share(mask)
    if share >= (PART if partial else WHOLE) or (partial and filled >= PART):
        return []
    volume = float(mask.double().mean())
    cure = "is it inverted? It must be 1 inside and 0 outside" if volume > 0.5 else (
        "was it drawn on another map or in another frame? A mask around a part belongs to --search local"
        if not partial else "was it drawn on another map or in another frame?")
    text = f"{name}: covers {100 * volume:.1f} % of the box, but holds {100 * share:.0f} % of the density: {cure}"
    return [Finding("mask misses the density", text, "mask")]


def diameter_verdict(density: Density | None, diameter: float, partial: bool) -> list[Finding]:
    """A finding where a sphere of ``diameter`` (A) about the box centre misses density of the map. partial: whether it
    may hold a part only."""
    if density is None:
        return []
    share = density.held_within(diameter)
    if share >= (PART if partial else SPHERE):
        return []
    text = (f"--diameter {diameter:g}: holds {100 * share:.0f} % of the starting map's density; give the diameter of "
            "the whole particle, detergent included, and a map that is centred")
    return [Finding("diameter misses the density", text, "diameter")]
