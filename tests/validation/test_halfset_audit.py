"""Planted leaks, duplicates and odd divisions of half sets are found, counted and removed; clean sets stay clean."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.symmetry import symmetry_group
from halfmap.validation.halfset_audit import Audit, Images, as_good_as, audit

MICROGRAPHS, EACH = 30, 40


def clean(seed: int = 0, spacing: float = 100.0) -> Images:
    """Particles on a lattice of every micrograph, no two nearer than half the spacing, half sets drawn at random."""
    rng = np.random.default_rng(seed)
    count = MICROGRAPHS * EACH
    place = np.tile(np.arange(EACH), MICROGRAPHS)
    position = np.stack([place % 8, place // 8], 1) * spacing + rng.uniform(-spacing / 5, spacing / 5, (count, 2))
    return Images(np.arange(count), rng.permutation(count) % 2, np.repeat(np.arange(MICROGRAPHS), EACH), position,
                  rotations=random_rotations(count, torch.Generator().manual_seed(seed)))


def with_rows(images: Images, rows: list[int], half: list[int] | None = None) -> Images:
    """The images with copies of some of their rows at the end, in other half sets where `half` says so."""
    at = np.concatenate([np.arange(len(images)), rows])
    assert images.half is not None and images.position is not None and images.rotations is not None
    halves = images.half[at].copy()
    if half is not None:
        halves[len(images):] = half
    return dataclasses.replace(images, image=images.image[at], half=halves, micrograph=images.micrograph[at],
                               position=images.position[at], rotations=images.rotations[torch.from_numpy(at)])


def kept(images: Images, found: Audit) -> Images:
    """What the audit keeps of the images."""
    at = np.flatnonzero(found.keep)
    return Images(images.image[at], None if found.half is None else found.half[at], images.micrograph[at],
                  None if images.position is None else images.position[at],
                  rotations=None if images.rotations is None else images.rotations[torch.from_numpy(at)])


def kinds(found: Audit) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_a_clean_set_is_found_clean_and_kept_whole() -> None:
    for seed in range(5):
        images = clean(seed)
        found = audit(images, 40)
        assert found.findings == () and not found.leaks and found.keep.all()
        np.testing.assert_array_equal(found.half, images.half)


def test_an_image_in_both_half_sets_is_a_leak_and_one_in_one_a_duplicate() -> None:
    base = clean()
    assert base.half is not None
    rows = [5, 100, 7]
    images = with_rows(base, rows, [1 - base.half[5], 1 - base.half[100], base.half[7]])
    found = audit(images, 40)
    first, second = found.findings
    end = len(base)
    assert (first.kind, first.count, first.rows) == ("leak", 2, (end, end + 1))
    assert (second.kind, second.count, second.rows) == ("duplicate", 1, (end + 2,))
    assert found.leaks and found.repeated == 3 and found.near == 0
    np.testing.assert_array_equal(np.flatnonzero(~found.keep), end + np.arange(3))
    assert not audit(kept(images, found), 40).leaks


def test_an_image_that_is_there_three_times_counts_once() -> None:
    base = clean()
    assert base.half is not None
    half = int(base.half[9])
    found = audit(with_rows(base, [9, 9], [half, 1 - half]), 40)
    assert [(finding.kind, finding.count) for finding in found.findings] == [("leak", 1)] and found.repeated == 2


def test_neighbours_are_those_of_a_search_through_all_pairs() -> None:
    images = clean(spacing=60)
    assert images.half is not None and images.position is not None
    distance = 45.0
    apart = np.linalg.norm(images.position[:, None] - images.position, axis=2)
    together = images.micrograph[:, None] == images.micrograph
    near = (apart < distance) & together & np.tri(len(images), k=-1, dtype=bool)
    across = near & (images.half[:, None] != images.half)
    found = audit(images, distance)
    assert near.sum() > across.sum() > 20
    assert [(finding.kind, finding.count) for finding in found.findings] == [
        ("leak", across.sum()), ("duplicate", near.sum() - across.sum())]
    left = np.flatnonzero(found.keep)
    assert not near[np.ix_(left, left)].any()
    # Nothing is taken away that has no kept neighbour before it.
    assert all(near[row, left].any() for row in np.flatnonzero(~found.keep))
    assert found.near == (~found.keep).sum()


def test_equal_places_on_different_micrographs_are_no_neighbours() -> None:
    images = clean()
    assert images.position is not None
    same = dataclasses.replace(images, position=np.tile(images.position[:EACH], (MICROGRAPHS, 1)))
    assert not audit(same, 40).findings


def test_coordinates_that_are_all_the_same_say_nothing() -> None:
    images = clean()
    for position, said in ((np.zeros((len(images), 2)), "say nothing"), (None, "no coordinates")):
        found = audit(dataclasses.replace(images, position=position), 40)
        assert kinds(found) == ["remark"] and said in found.findings[0].text and found.keep.all()


@pytest.mark.parametrize("name", ["C3", "D2", "T"])
def test_symmetry_expansion_is_recognised_and_kept_in_one_half(name: str) -> None:
    base, group = clean(), symmetry_group(name)
    assert base.rotations is not None
    rows = list(range(200)) * (len(group) - 1)
    images = with_rows(base, rows)
    assert images.rotations is not None and images.half is not None
    for copy, operation in enumerate(group[1:]):
        at = slice(len(base) + 200 * copy, len(base) + 200 * (copy + 1))
        images.rotations[at] = base.rotations[:200] @ operation
    found = audit(images, 40)
    assert found.expanded == name and found.keep.all() and set(kinds(found)) == {"remark"} and not found.leaks
    assert found.findings[0].text.startswith(f"symmetry-expanded by {name}")
    images.half[len(base):] = 1 - images.half[len(base):]
    leaking = audit(images, 40)
    assert leaking.findings[0].kind == "leak" and leaking.findings[0].count == 200 and leaking.keep.all()
    assert leaking.half is not None
    np.testing.assert_array_equal(leaking.half[: len(base)], base.half)
    np.testing.assert_array_equal(leaking.half[len(base):], np.tile(np.asarray(base.half)[:200], len(group) - 1))


def test_copies_with_unrelated_or_equal_poses_are_no_symmetry_expansion() -> None:
    base = clean()
    images = with_rows(base, list(range(100)))
    assert audit(images, 40).expanded == "" and audit(images, 40).repeated == 100
    assert images.rotations is not None
    images.rotations[len(base):] = random_rotations(100, torch.Generator().manual_seed(8))
    assert audit(images, 40).expanded == ""


def test_without_half_sets_copies_are_duplicates() -> None:
    images = dataclasses.replace(with_rows(clean(), [3, 4]), half=None)
    found = audit(images, 40)
    assert kinds(found) == ["duplicate"] and found.half is None and "no half sets" in found.findings[0].text


def test_filaments_must_not_be_divided() -> None:
    images = clean()
    assert images.half is not None
    tube = np.tile(np.arange(EACH) // 10, MICROGRAPHS)
    divided = audit(dataclasses.replace(images, tube=tube), 40)
    assert divided.findings[0].kind == "leak" and "filaments" in divided.findings[0].text
    whole = dataclasses.replace(images, tube=tube, half=(images.micrograph * 4 + tube) % 2)
    assert not audit(whole, 40).leaks


def test_odd_divisions_are_remarked_on() -> None:
    images = clean()
    count = len(images)
    mixed = np.where(images.micrograph < 10, images.micrograph % 2, np.asarray(images.half))
    for half, said in (
        ((np.arange(count) > count // 2).astype(int), "first part of the file"),
        (images.micrograph % 2, "divided by micrograph"),
        (mixed, "divided unevenly"),
        ((np.random.default_rng(0).uniform(size=count) < 0.3).astype(int), "unequal"),
    ):
        found = audit(dataclasses.replace(images, half=half), 40)
        assert kinds(found) == ["remark"] and said in found.findings[0].text and not found.leaks
    alternating = dataclasses.replace(images, half=np.arange(count) % 2)
    assert audit(alternating, 40).findings == ()


def test_an_image_that_is_there_in_every_row_is_said_to_be() -> None:
    images = dataclasses.replace(clean(), image=np.zeros(MICROGRAPHS * EACH, np.int64), rotations=None)
    found = audit(images, 40)
    assert found.findings[0].kind == "leak" and "all 1200 images are one and the same" in found.findings[0].text


def test_the_first_row_of_a_copy_is_named() -> None:
    base = clean()
    assert base.half is not None
    found = audit(with_rows(base, [100, 5], [1 - base.half[100], 1 - base.half[5]]), 40)
    assert found.findings[0].rows == (len(base), len(base) + 1) and found.findings[0].first == (100, 5)


def test_segments_of_a_filament_are_no_neighbours_and_go_where_most_of_them_are() -> None:
    images = clean(spacing=30)
    assert images.half is not None
    tube = np.where(images.micrograph < 20, images.micrograph, -1)
    found = audit(dataclasses.replace(images, tube=tube), 35)
    assert found.keep[images.micrograph < 20].all() and not found.keep.all()
    assert found.half is not None
    for one in range(20):
        mine = tube == one
        assert set(found.half[mine].tolist()) == {int(images.half[mine].mean() > 0.5)}
    np.testing.assert_array_equal(found.half[tube < 0], images.half[tube < 0])


@pytest.mark.parametrize("sizes", [(10, 490), (100, 400), (250, 250)])
def test_unequal_half_sets_are_as_good_as_equal_ones_of_the_same_fsc(sizes: tuple[int, int]) -> None:
    """Drawn: one signal and the noise of every particle, whose power is such that the FSC is 0.143."""
    equal = as_good_as(*sizes)
    rng = np.random.default_rng(0)
    signal = rng.normal(size=400_000)
    noise = math.sqrt(equal * (1 - 0.143) / 0.143)  # equal sets of this size have an FSC of 0.143

    def fsc(first: float, second: float) -> float:
        a, b = (signal + rng.normal(size=len(signal)) * noise / math.sqrt(n) for n in (first, second))
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    assert fsc(*sizes) == pytest.approx(0.143, abs=0.006) and fsc(equal, equal) == pytest.approx(0.143, abs=0.006)


def test_half_sets_of_10_and_490_are_warned_of_and_small_ones_noted() -> None:
    images = clean()
    at = np.arange(500)
    few = Images(at, (np.random.default_rng(0).permutation(500) < 10).astype(int), images.micrograph[:500])
    said = {finding.name: finding for finding in audit(few, 40).findings}
    uneven = said["half sets are unequal"]
    assert uneven.level == "warning" and "490 and 10" in uneven.text and "two sets of 49" in uneven.text
    assert said["small half sets"].level == "note" and not audit(few, 40).leaks
    mild = Images(at, (np.random.default_rng(0).permutation(500) < 190).astype(int), images.micrograph[:500])
    assert [finding.level for finding in audit(mild, 40).findings if "unequal" in finding.name] == [None]
