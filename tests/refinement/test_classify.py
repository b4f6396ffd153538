"""A classification: images of different molecules are told apart, and everything holds that holds of a refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from fixtures.projects import DIAMETER, Outcome

from halfmap.expectation.mixture import Mixture, starts_of_class, undecided
from halfmap.expectation.posterior import Poses
from halfmap.particles.model import Atoms, read_model, write_pdb
from halfmap.particles.star import read_star, write_star
from halfmap.refinement.class_schedule import ClassSchedule
from halfmap.refinement.classify import classify as run
from halfmap.refinement.refine import refine
from halfmap.refinement.resume import resume
from halfmap.refinement.schedule import Progressed, margin
from halfmap.settings.classify import ClassifySettings, validated_classify
from halfmap.settings.resume import ResumeSettings

EYE = torch.eye(3, dtype=torch.float64)


def without_arm(atoms: Atoms) -> Atoms:
    kept = [i for i, chain in enumerate(atoms.chain) if chain != "B"]
    taken = {name: tuple(getattr(atoms, name)[i] for i in kept)
             for name in ("element", "chain", "residue", "number", "name")}
    return replace(atoms, xyz=atoms.xyz[kept], bfactor=atoms.bfactor[kept], occupancy=atoms.occupancy[kept], **taken)


@pytest.fixture(scope="session")
def mixture(simulated: Callable[..., Path], molecule: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images of the demo molecule and 100 of it without its arm, at their true poses in one frame (posed.star)."""
    folder = tmp_path_factory.mktemp("mixture")
    whole = read_model(molecule)
    part = without_arm(whole)
    write_pdb(folder / "part.pdb", part)
    moved = part.xyz.mean(dim=0) - whole.xyz.mean(dim=0)  # each model is simulated about the mean of its atoms
    tables = []
    for number, model in enumerate((molecule, folder / "part.pdb"), start=1):
        made = simulated(model=model, n=100, snr=0.3, seed=number)
        table = read_star(made / "particles_truth.star")
        if number == 2:
            table = replace(table, origins=table.origins + (table.rotations @ moved)[:, :2])
        write_star(folder / f"{number}.star", table)
        read = starfile.read(folder / f"{number}.star", always_dict=True)
        read["particles"]["rlnMicrographName"] = [f"{number}_{name}" for name in read["particles"]["rlnMicrographName"]]
        tables.append(read)
    particles = pd.concat([read["particles"] for read in tables], ignore_index=True)
    particles = particles.drop(columns=["rlnRandomSubset", "rlnClassNumber"], errors="ignore")
    starfile.write({"optics": tables[0]["optics"], "particles": particles}, folder / "posed.star")
    start = simulated(model=molecule, n=100, snr=0.3, seed=1) / "initial.mrc"
    (folder / "initial.mrc").write_bytes(start.read_bytes())
    return folder


@pytest.fixture(scope="session")
def classify(halfmap: Callable[..., Outcome], mixture: Path, tmp_path_factory: pytest.TempPathFactory):
    """Classify the mixture at its poses, in two classes unless the options say otherwise."""

    def words_of(*options: object, out: Path | None = None) -> Outcome:
        usual = {"--classes": 2, "--search": "fixed", "--threads": 1, "--diameter": DIAMETER}
        words = [word for name, value in usual.items() if name not in options for word in (name, value)]
        return halfmap(["classify", mixture / "posed.star", "--map", mixture / "initial.mrc", *words, *options,
                        "--out", out or tmp_path_factory.mktemp("classes") / "run"])

    return words_of


@pytest.fixture(scope="session")
def sorted_out(classify) -> Outcome:
    done = classify()
    assert done.status == 0, done.error
    return done


def classes_of(run: Path) -> np.ndarray:
    return starfile.read(run / "particles.star", always_dict=True)["particles"]["rlnClassNumber"].to_numpy()


def same_run(one: Path, other: Path) -> bool:
    names = [*sorted(path.name for path in one.glob("*.mrc")), "particles.star", "class001.star"]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_two_molecules_that_differ_by_an_arm_are_told_apart(sorted_out):
    found = classes_of(sorted_out.out)
    first = np.arange(200) < 100
    right = max(((found == 1) == first).mean(), ((found == 2) == first).mean())
    assert right > 0.95  # measured: 0.995
    last = sorted_out.records[-1]
    assert last["search"] == "final" and sum(one["images"] for one in last["classes"]) == 200
    assert last["classes"][0]["share"] >= last["classes"][1]["share"]


def test_a_run_that_ends_by_its_iterations_says_that_images_still_move(sorted_out, classify):
    def still(done: Outcome) -> list[dict]:
        return [one for one in done.records[-1]["findings"] if one["name"] == "classes still move"]

    assert not still(sorted_out) and sorted_out.records[-1]["changed"] < 0.01
    (found,) = still(classify("--max-iterations", 4))
    assert "--max-iterations ended this" in found["text"]


def test_every_class_has_its_files_ready_for_a_refinement(sorted_out, halfmap):
    for number in (1, 2):
        members = starfile.read(sorted_out.out / f"class{number:03d}.star", always_dict=True)["particles"]
        assert len(members) == (classes_of(sorted_out.out) == number).sum()
        assert set(members["rlnRandomSubset"]) == {1, 2} and (members["rlnClassNumber"] == number).all()
        assert np.isfinite(sorted_out.map(f"class{number:03d}.mrc")).all()
    page = (sorted_out.out / "report.html").read_text()
    assert "Class 1 less class 2" in page and "Beyond 7 standard deviations" in page
    assert halfmap(["report", sorted_out.out]).status == 0
    assert len((sorted_out.out / "report.html").read_text()) == pytest.approx(len(page), rel=0.01)


def test_one_class_is_a_refinement_to_the_bit(mixture, tmp_path):
    settings = ClassifySettings(mixture / "posed.star", 1, tmp_path / "one", (mixture / "initial.mrc",), DIAMETER,
                                search="fixed", regulariser="uniform", max_iterations=1, threads=1)
    settings = validated_classify(settings)
    run(settings)
    refine(replace(settings.refinement(), out=tmp_path / "refined"))
    pairs = {"class001": "map", "class001_half1": "half1_unfil", "class001_half2": "half2_unfil"}
    for name, other in pairs.items():
        made, expected = tmp_path / "one" / f"{name}.mrc", tmp_path / "refined" / f"{other}.mrc"
        assert np.array_equal(mrcfile.read(made), mrcfile.read(expected))


def test_threads_change_nothing_and_a_run_that_died_goes_on_to_the_same_bits(mixture, dying, tmp_path):
    table = read_star(mixture / "posed.star")
    write_star(tmp_path / "few.star", table.select(np.arange(60, 140)))
    settings = ClassifySettings(
        tmp_path / "few.star", 2, tmp_path / "whole", (mixture / "initial.mrc",), DIAMETER, search="local", padding=1,
        max_iterations=2, batch=20, checkpoint_minutes=1e-6, threads=2,
    )  # fmt: skip
    run(validated_classify(settings))
    stopped = replace(settings, out=tmp_path / "run", threads=1)
    assert dying.after(14, lambda: run(validated_classify(stopped)))
    assert "sums" in {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    resume(ResumeSettings(tmp_path / "run"))
    assert same_run(tmp_path / "whole", tmp_path / "run")


def test_at_given_poses_an_image_counts_as_far_as_it_is_known_to_hold_a_particle(classify, mixture, tmp_path, halfmap):
    read = starfile.read(mixture / "posed.star", always_dict=True)
    particles = read["particles"].assign(rlnRandomSubset=1 + np.arange(200) % 2)  # the second hundred lack the arm

    def made(name: str, probability: object, rows: slice = slice(None)) -> Outcome:
        some = particles.iloc[rows].assign(halfmapParticleProbability=probability)
        starfile.write({"optics": read["optics"], "particles": some}, mixture / f"{name}.star")
        return halfmap(["classify", mixture / f"{name}.star", "--map", mixture / "initial.mrc", "--classes", 1,
                        "--search", "fixed", "--diameter", DIAMETER, "--threads", 1, "--max-iterations", 1,
                        "--out", tmp_path / name])

    weighed = made("weighed", [1.0] * 100 + [0.0] * 100)
    assert "100 of 200 images count" in weighed.said
    left = starfile.read(weighed.out / "particles.star", always_dict=True)["particles"]
    assert left["halfmapParticleProbability"].tolist() == [1.0] * 100 + [0.0] * 100
    alone, every = made("alone", 1.0, slice(100)), made("every", 1.0)

    def alike(done: Outcome) -> float:
        maps = [sum(run.map(f"class001_half{h}.mrc") for h in (1, 2)).ravel() for run in (done, weighed)]
        return float(np.corrcoef(maps)[0, 1])

    assert alike(alone) > 0.995 > alike(every)
    refused = made("wrong", 1.5)
    assert refused.status == 2 and "holds what is no probability" in refused.error


@pytest.mark.parametrize(("options", "said"), [
    (("--classes", 9), "fewer than 25 a class"), (("--classes", 3, "--map", "{0}", "{0}"), "2 maps for 3 classes"),
    (("--mask", "{1}"), "holds 0 % of the density"),
])
def test_what_cannot_be_classified_is_said_in_one_line(options, said, classify, mixture, tmp_path):
    with mrcfile.new(tmp_path / "mask.mrc") as file:
        corner = np.zeros((40, 40, 40), np.float32)
        corner[:6, :6, :6] = 1
        file.set_data(corner)
        file.voxel_size = 4.2
    words = [str(word).format(mixture / "initial.mrc", tmp_path / "mask.mrc") for word in options]
    done = classify(*words, "--max-iterations", 1)
    assert done.status == 2 and len(done.error.splitlines()) == 1 and said in done.error


def poses(gain: list[list[float]]) -> Poses:
    known = torch.tensor(gain, dtype=torch.float64)
    b, c = known.shape
    turned = torch.linalg.matrix_exp(torch.tensor([[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0]], dtype=torch.float64))
    rotations = torch.stack([torch.linalg.matrix_power(turned, n) for n in range(c)]).expand(b, c, 3, 3)
    return Poses(rotations, torch.zeros(b, c, 2, dtype=torch.float64), known, torch.eye(5).double().expand(b, c, 5, 5))


def test_how_far_classes_are_undecided_is_how_often_two_draws_differ():
    share = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.float64)
    draw = torch.Generator().manual_seed(1)
    one, other = (torch.multinomial(share, 20_000, replacement=True, generator=draw) for _ in range(2))
    assert undecided(share).numpy() == pytest.approx((one != other).double().mean(dim=1).numpy(), abs=0.015)


@pytest.mark.parametrize(("changed", "agreed", "limit"), [(0.005, 10, 12), (0.005, 8, 12), (0.005, 11, 14),
                                                          (0.05, 10, 13)])
def test_half_maps_that_waver_by_a_shell_do_not_stir_up_images_that_are_calm(changed, agreed, limit):
    schedule = ClassSchedule(64, 3.0, 150.0, EYE[None], 40.0, 30, "fixed")
    last = Progressed("fixed", 12, agreed, 20.0, 1.0, 0.0, 0.0, 0.0, changed=changed)
    plan = schedule.next([last] * 6, 1.0)
    assert agreed + margin(agreed) in (11, 13, 14) and plan is not None and plan.sampling.limit == limit


def test_shares_are_bayes_rule_and_every_class_keeps_its_best_mode():
    evidence = torch.tensor([[3.0, 1.0], [-700.0, 40.0]], dtype=torch.float64)
    mixed = Mixture.of((poses([[3.0, 1.0], [0.0, -1.0]]), poses([[1.0], [40.0]])), evidence, torch.tensor([0.8, 0.2]))
    z = 0.8 * np.exp(3.0), 0.2 * np.exp(1.0)
    assert mixed.share[0, 0].item() == pytest.approx(z[0] / sum(z), rel=1e-6)
    assert mixed.log_evidence[0].item() == pytest.approx(np.log(sum(z)), rel=1e-6)
    modes = mixed.modes()
    assert modes.class_of.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert modes.weight.sum(dim=1).numpy() == pytest.approx([1, 1])
    assert modes.weight[1, 2] > 0  # where the next search of a class begins that is ruled out here
    own = (modes.class_of == 0) & ~torch.isinf(modes.poses.gain)
    starts = starts_of_class(modes.poses, own, EYE[None], 0.03)
    assert torch.equal(starts.rotations[1, 0], EYE)
