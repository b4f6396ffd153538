"""A refinement within limits of memory: sums on disk, smaller batches, or a line that says what would fit."""

import gc

import numpy as np
import pytest
import torch

from halfmap.refinement import half_search
from halfmap.refinement import refine as refine_workflow


def test_sums_on_disk_give_the_same_map_up_to_rounding(brief, refine, dataset, tmp_path):
    done = refine(dataset, "--sums", "disk", "--scratch", tmp_path)
    assert done.status == 0, done.error
    assert "sums on disk" in done.said and not list(tmp_path.glob("*.tmp"))
    one, other = brief.map("half1_unfil.mrc"), done.map("half1_unfil.mrc")
    first = [record["fsc"][:8] for record in (brief.records[0], done.records[0])]
    np.testing.assert_allclose(first[0], first[1], atol=2e-3)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


def test_too_little_memory_is_said_before_anything_is_done(dataset, refine, tmp_path):
    done = refine(dataset, "--max-memory", 0.2, out=tmp_path / "run")
    assert done.status == 2 and "memory:" in done.error and "available" in done.error
    assert not (tmp_path / "run").exists()


def test_no_map_of_an_iteration_is_left_in_the_next(refine, dataset, monkeypatch):
    """Reference counts alone free them: what stands in a cycle waits for the garbage collector, which counts objects,
    not bytes."""
    counts, step = [], refine_workflow.em_step

    def counted(problem, *others):
        box = problem.model.box
        maps = {t.untyped_storage().data_ptr() for t in gc.get_objects()
                if type(t) is torch.Tensor and t.shape == (box,) * 3}
        counts.append(len(maps))
        return step(problem, *others)

    monkeypatch.setattr(refine_workflow, "em_step", counted)
    gc.collect()
    gc.disable()
    try:
        done = refine(dataset, "--max-iterations", 4)
    finally:
        gc.enable()
    assert done.status == 0, done.error
    assert len(counts) == 4 and max(counts) <= min(counts) + 1


def test_batches_that_memory_refuses_are_halved_and_nothing_is_counted_twice(brief, refine, dataset, monkeypatch):
    """The same poses come out, up to the rounding of products of another size."""
    sizes, find = [], half_search.find_poses

    def stingy(reference, images, *others):
        sizes.append(len(images.scored))
        if sizes[-1] > 30:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return find(reference, images, *others)

    monkeypatch.setattr(half_search, "find_poses", stingy)
    done = refine(dataset)
    assert done.status == 0, done.error
    assert max(sizes) == 100 and 25 in sizes
    first, other = brief.records[0], done.records[0]
    assert other["gain"] == pytest.approx(first["gain"], rel=1e-3)
    np.testing.assert_allclose(other["fsc"][:8], first["fsc"][:8], atol=5e-3)
    np.testing.assert_allclose(other["sigma2"][0], first["sigma2"][0], rtol=5e-3)
