"""What half sets must not share: one image, one particle or one filament in both. Also copies within one half set.

The half-map FSC is a test only where the noise of the half sets is independent (Scheres & Chen 2012, Nat. Methods 9,
853). An image that is in both correlates with itself at every resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from halfmap.finding import Level
from halfmap.geometry.rotations import angular_distance
from halfmap.geometry.symmetry import symmetry_group

Integers = NDArray[np.int64]
Kind = Literal["leak", "duplicate", "remark"]

UNEVEN = 0.02  # random halves of a large set never differ in size by this fraction of all particles
SURE = 5.0  # a division that deviates by more standard deviations is not made by chance
ROWS = 5  # number of rows that a finding names
SAMPLE = 2000  # number of copies whose poses are compared
GAIN = 0.8  # half sets as good as equal ones of less than this fraction of the particles are worth a warning
FEW = 50  # particles of a half set whose FSC is a rough figure
SAME_POSE = 1.0  # rotations closer than this many degrees count as the same


@dataclass(frozen=True)
class Images:
    """Images in the order of their file.

    image[b]: equal numbers for the same image. half[b]: 0 or 1, None where there are no half sets. micrograph[b]: its
    number. position[b,2]: centre of the particle on the micrograph in A, None where unknown. tube[b]: number of the
    filament, -1 for none, None where no image has one. rotations[b,3,3]: poses, None where unknown. compared: whether
    their pixels had to say which images are the same.
    """

    image: Integers
    half: Integers | None
    micrograph: Integers
    position: NDArray[np.float64] | None = None
    tube: Integers | None = None
    rotations: Tensor | None = None
    compared: bool = False

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Anomaly:
    """One thing found, and where.

    kind: a leak between the half sets, duplicates that become a leak if they are divided, or a remark; name: what it is
    in a few words; count: how often it was found; rows: the first rows (from 0) where it was, in order; first: of each
    of these the row that it repeats, if it does; level: how a refinement says it, None if it need not.
    """

    kind: Kind
    name: str
    text: str
    count: int = 0
    rows: tuple[int, ...] = ()
    first: tuple[int, ...] = ()
    level: Level | None = None


@dataclass(frozen=True)
class Audit:
    """What was found, and what the file would hold without it.

    keep[b]: rows that stay; half[b]: their half sets, each filament whole in that of most of its segments; expanded:
    the point group that relates the copies of an image, empty where none does; repeated, near: how many rows are left
    out as copies of an image, and as too near to another particle.
    """

    findings: tuple[Anomaly, ...]
    keep: NDArray[np.bool_]
    half: Integers | None
    expanded: str
    repeated: int
    near: int

    @property
    def leaks(self) -> bool:
        """Whether anything was found that must be corrected before the half-map FSC means anything."""
        return any(finding.kind != "remark" for finding in self.findings)


def audit(images: Images, distance: float) -> Audit:
    """Look for images and particles that occur twice, and at how the half sets were divided.

    distance: centres nearer than this on one micrograph (A) are one particle. The first row of every image and of every
    cluster of centres is kept. Copies of an image whose poses are related by a point group (symmetry expansion) are all
    kept, in the half set of the first.
    """
    first = _first_rows(images.image)
    expanded = _expansion(images, first)
    findings = _repeated(images, first, expanded)
    pairs, remark = _near_pairs(images, np.flatnonzero(first == np.arange(len(images))), distance)
    findings += _near(images, pairs, distance) + remark
    findings += _tubes(images) + _division(images)
    keep = np.ones(len(images), dtype=bool) if expanded else first == np.arange(len(images))
    repeated = int((~keep).sum())
    far = _apart(pairs, len(images))
    keep &= far[first]
    half = None if images.half is None else _whole_filaments(images.half[first], images.tube)
    order = {"leak": 0, "duplicate": 1, "remark": 2}
    return Audit(tuple(sorted(findings, key=lambda finding: order[finding.kind])), keep, half, expanded, repeated,
                 len(images) - repeated - int(keep.sum()))


def _first_rows(image: Integers) -> Integers:
    """The first row[b] that holds the same image."""
    _, first, inverse = np.unique(image, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _expansion(images: Images, first: Integers) -> str:
    """The point group whose rotations map an image's first pose to those of its copies; empty where there is none.

    R and R g are equivalent, so that the copies of an expanded image have first^T copy = g.
    """
    copies = np.flatnonzero(first != np.arange(len(images)))
    if images.rotations is None or not len(copies):
        return ""
    order = int(np.bincount(first).max())
    copies = copies[np.linspace(0, len(copies) - 1, min(SAMPLE, len(copies))).astype(int)]
    between = images.rotations[first[copies]].transpose(1, 2).double() @ images.rotations[copies].double()
    identity = torch.eye(3, dtype=torch.float64)
    if float((angular_distance(between, identity) < SAME_POSE).double().mean()) > 0.5:
        return ""
    for name in _groups_of(order):
        nearest = angular_distance(between, identity, symmetry_group(name))
        if float((nearest < SAME_POSE).double().mean()) > 0.95:
            return name
    return ""


def _groups_of(order: int) -> list[str]:
    """Names of the point groups of this order."""
    named = {12: ["T"], 24: ["O"], 60: ["I1", "I2", "I3", "I4"]}.get(order, [])
    cyclic = [f"C{order}"] if 1 < order < 100 else []
    return cyclic + ([f"D{order // 2}"] if order % 2 == 0 and 2 < order < 200 else []) + named


def _repeated(images: Images, first: Integers, expanded: str) -> list[Anomaly]:
    """Images that occur more than once, in both half sets or in one."""
    copies = np.flatnonzero(first != np.arange(len(images)))
    if not len(copies):
        return []
    repeated = np.unique(first[copies])
    findings, across = [], np.empty(0, np.int64)
    if expanded:
        findings.append(Anomaly(
            "remark", "symmetry-expanded set", f"symmetry-expanded by {expanded}: {len(images)} rows stand for "
            f"{len(images) - len(copies)} images; such a set is for local work, not for a refinement from scratch",
            len(copies), level="note"))
    what = f"copies made by symmetry expansion ({expanded})" if expanded else "the same image"
    if images.compared and not expanded:
        what = "the same pixels, whatever their names and grey scale"
    if len(images) > 2 and len(copies) == len(images) - 1 and not expanded:
        kind: Kind = "duplicate" if images.half is None or len(set(images.half.tolist())) < 2 else "leak"
        return [Anomaly(kind, "all images are the same", f"all {len(images)} images are one and the same ({what}): "
                        "check how the stack was written", len(copies), level="warning")]
    if images.half is not None:
        across = np.unique(first[copies[images.half[copies] != images.half[first[copies]]]])
    if len(across):
        rows = _rows(first, copies, across)
        findings.append(Anomaly("leak", "images in both half sets", f"{len(across)} {_plural('image', across)} in both "
                                f"half sets ({what}): their noise correlates at every resolution", len(across), rows,
                                tuple(first[list(rows)].tolist()), "warning"))
    within = np.setdiff1d(repeated, across)
    if len(within) and not expanded:
        place = "within one half set" if images.half is not None else "in the file, which has no half sets"
        rows = _rows(first, copies, within)
        findings.append(Anomaly("duplicate", "images more than once", f"{len(within)} {_plural('image', within)} more "
                                f"than once {place}", len(within), rows, tuple(first[list(rows)].tolist()), "note"))
    return findings


def _rows(first: Integers, copies: Integers, which: Integers) -> tuple[int, ...]:
    """The first few copies of these images, in the order of the file."""
    return tuple(copies[np.isin(first[copies], which)][:ROWS].tolist())


def _near_pairs(images: Images, rows: Integers, distance: float) -> tuple[Integers, list[Anomaly]]:
    """Pairs[p,2] of these rows whose centres are nearer than the distance on one micrograph, and remarks.

    The earlier row of a pair comes first. One tree holds all micrographs; the third coordinate keeps them further apart
    than the distance.
    """
    none = np.empty((0, 2), np.int64)
    if images.position is None:
        return none, [Anomaly("remark", "no coordinates", "no coordinates (rlnMicrographName, rlnCoordinateX, "
                              "rlnCoordinateY): near neighbours were not looked for")]
    floor = images.micrograph[rows] * (4.0 * distance)
    places = np.column_stack([images.position[rows], floor])
    different = len(np.unique(np.ascontiguousarray(places).view([("", float)] * 3)))
    if different < len(rows) / 2:
        return none, [Anomaly("remark", "equal coordinates", f"{len(rows)} images have {different} different "
                              "coordinates: they say nothing about neighbours, which were not looked for")]
    pairs = cKDTree(places, balanced_tree=False, compact_nodes=False).query_pairs(distance, output_type="ndarray")
    pairs = np.sort(rows[pairs].reshape(-1, 2), axis=1)
    if images.tube is not None:  # segments of one filament are near by design
        one, other = images.tube[pairs].T
        pairs = pairs[(one != other) | (one < 0)]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], []


def _near(images: Images, pairs: Integers, distance: float) -> list[Anomaly]:
    """Pairs[p,2] of near particles, in different half sets or in one."""
    across = np.zeros(len(pairs), dtype=bool)
    place = ""
    if images.half is not None:
        across, place = images.half[pairs[:, 0]] != images.half[pairs[:, 1]], " in one half set"
    sides: tuple[tuple[Kind, NDArray[np.bool_], str], ...] = (
        ("leak", across, " in different half sets: one particle twice, or shared noise"), ("duplicate", ~across, place))
    findings = []
    for kind, mine, where in sides:
        if mine.any():
            text = f"{mine.sum()} {_plural('pair', mine[mine])} of particles nearer than {distance:.4g} A{where}"
            rows = tuple(np.unique(pairs[mine][:, 1])[:ROWS].tolist())
            findings.append(Anomaly(kind, f"near particles{where.split(':')[0]}", text, int(mine.sum()), rows,
                                    level="warning" if kind == "leak" else "note"))
    return findings


def _apart(pairs: Integers, count: int) -> NDArray[np.bool_]:
    """Which rows stay if, going from the first row on, the later row of every pair of kept ones is left out."""
    stays = np.ones(count, dtype=bool)
    for early, late in pairs.tolist():
        if stays[early]:
            stays[late] = False
    return stays


def _tubes(images: Images) -> list[Anomaly]:
    """Filaments with segments in both half sets: neighbouring segments overlap."""
    if images.tube is None or images.half is None:
        return []
    rows = np.flatnonzero(images.tube >= 0)
    tube = np.unique(images.tube[rows], return_inverse=True)[1].reshape(-1)
    total, second = np.bincount(tube), np.bincount(tube, weights=images.half[rows])
    mixed = (second > 0) & (second < total)
    if not mixed.any():
        return []
    named = tuple(rows[np.flatnonzero(mixed[tube])][:ROWS].tolist())
    return [Anomaly("leak", "filaments in both half sets", f"{mixed.sum()} of {len(total)} filaments have segments in "
                    "both half sets, and neighbours overlap; divide by filament (halfmap refine --resplit)",
                    int(mixed.sum()), named, level="warning")]


def _whole_filaments(half: Integers, tube: Integers | None) -> Integers:
    """The half sets [b], but each filament, tube[b], in that of most of its segments (the first of two equal ones)."""
    if tube is None:
        return half
    number = tube + 1
    second = np.bincount(number, weights=half) > 0.5 * np.bincount(number)
    return np.where(tube < 0, half, second[number].astype(np.int64))


def as_good_as(first: int, second: int, fsc: float = 0.143) -> float:
    """The size of equal half sets whose maps reach this FSC where those of half sets of these sizes do.

    A map of n particles has n times the signal-to-noise ratio a of one, and FSC^2 = x y / ((1 + x) (1 + y)) with x =
    first a and y = second a; equal sets of m reach FSC = m a / (1 + m a).
    """
    both, total = first * second, first + second
    if not both:
        return 0.0
    square = fsc**2
    root = math.sqrt((square * total) ** 2 + 4 * both * (1 - square) * square)
    ratio = (square * total + root) / (2 * both * (1 - square))
    return fsc / (1 - fsc) / ratio


def _sizes(first: int, second: int) -> list[Anomaly]:
    """Half sets of very different size, or of few particles."""
    count, findings = first + second, []
    if abs(first - second) > max(UNEVEN * count, SURE * math.sqrt(count)):
        equal = as_good_as(first, second)
        text = (f"the half sets are unequal: {first} and {second} particles; their FSC falls to 0.143 where that of "
                f"two sets of {equal:.0f} would, so resolution and filter are those of a set of {2 * equal:.0f}; "
                "divide anew (halfmap refine --resplit)")
        poor = equal < GAIN * count / 2
        findings.append(Anomaly("remark", "half sets are unequal", text, level="warning" if poor else None))
    if min(first, second) < FEW:
        findings.append(Anomaly("remark", "small half sets", f"half sets of {first} and {second} particles are small: "
                                "their views leave gaps in Fourier space, and FSC, resolution and filter are rough",
                                level="note"))
    return findings


def _division(images: Images) -> list[Anomaly]:
    """Remarks on the sizes of the half sets and on what was kept together."""
    if images.half is None:
        return []
    half, count = images.half, len(images)
    sizes = np.bincount(half, minlength=2)
    findings = _sizes(int(sizes[0]), int(sizes[1]))
    if count > 20 and min(sizes) > count / 4 and np.count_nonzero(np.diff(half)) == 1:
        return [*findings, Anomaly("remark", "half sets are parts of the file", "one half set is the first part of the "
                                   "file and the other the rest: they may differ in ice and defocus; a random division "
                                   "is better")]
    total = np.bincount(images.micrograph)
    second = np.bincount(images.micrograph, weights=half)[total > 0]
    total = total[total > 0]
    share = sizes[1] / count
    if len(total) < 4 or count < 2 * len(total) or not 0 < share < 1:
        return findings
    if not np.any((second > 0) & (second < total)):
        return [*findings, Anomaly("remark", "divided by micrograph", "the half sets are divided by micrograph")]
    spread = float((((second - share * total) ** 2) / (total * share * (1 - share))).sum())
    if images.tube is None and spread > len(total) + SURE * math.sqrt(2 * len(total)):
        findings.append(Anomaly("remark", "micrographs are divided unevenly", "micrographs are divided unevenly "
                                "between the half sets: neither particle by particle nor micrograph by micrograph"))
    return findings


def _plural(word: str, some: NDArray[np.generic]) -> str:
    return word if len(some) == 1 else word + "s"
