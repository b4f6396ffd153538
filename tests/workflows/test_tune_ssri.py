"""``halfmap tune-ssri``: order of the search, ties, what a stopped search keeps, and one search from start to end."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from halfmap.particles.star import read_star
from halfmap.settings.refine import from_toml
from halfmap.workflows import refined_subsets
from halfmap.workflows.tune_ssri import Trial, searched

Halfmap = Callable[..., Any]
LISTS = {"alpha": (0.3, 0.6, 0.9), "beta": (1.0, 2.0), "gamma": (0.0, 0.1), "eps_gradient": (1.0, 2.0)}
START = {"alpha": 0.6, "beta": 2.0, "gamma": 0.1, "eps_gradient": 1.0}


def stubbed(judge: Callable[[Mapping[str, float]], float], error: float = 0.001) -> Any:
    """A function that stands for a trial, judged by its values, and the list of the trials that were asked for."""
    asked: list[tuple[float, ...]] = []

    def trial(values: Mapping[str, float]) -> Trial:
        asked.append(tuple(values.values()))
        return Trial(dict(values), Path(), judge(values), error, {}, {}, None, 0.0)

    return trial, asked


def test_parameters_are_searched_in_the_paper_s_order_each_with_what_was_chosen_before() -> None:
    trial, asked = stubbed(lambda v: -abs(v["alpha"] - 0.3) - abs(v["beta"] - 2) + v["gamma"] + v["eps_gradient"])
    sweeps = searched(LISTS, START, trial)
    assert asked == [
        (0.3, 2.0, 0.1, 1.0), (0.6, 2.0, 0.1, 1.0), (0.9, 2.0, 0.1, 1.0),  # alpha, with the others as they start
        (0.3, 1.0, 0.1, 1.0), (0.3, 2.0, 0.1, 1.0),
        (0.3, 2.0, 0.0, 1.0), (0.3, 2.0, 0.1, 1.0),
        (0.3, 2.0, 0.1, 1.0), (0.3, 2.0, 0.1, 2.0),
    ]  # fmt: skip
    assert sweeps[-1].chosen.values == {"alpha": 0.3, "beta": 2.0, "gamma": 0.1, "eps_gradient": 2.0}


def test_among_values_within_the_error_the_weakest_is_taken_and_four_ties_do_not_add_up() -> None:
    scores = {0.3: 0.492, 0.6: 0.5, 0.9: 0.48}
    trial, _ = stubbed(lambda v: scores[v["alpha"]] - 0.006 * (v["beta"] == 1), error=0.01)
    sweeps = searched(LISTS, START, trial)
    assert sweeps[0].chosen.values["alpha"] == 0.3 and not sweeps[0].undecided
    # beta 1 is within one error of beta 2, but not of the best trial of all.
    assert sweeps[1].chosen.values["beta"] == 2.0 and not sweeps[1].undecided
    assert sweeps[2].chosen.values["gamma"] == 0.0 and sweeps[2].undecided


def test_a_list_of_one_value_is_held_from_the_start() -> None:
    trial, asked = stubbed(lambda v: v["alpha"])
    sweeps = searched(LISTS | {"beta": (7.0,)}, START, trial)
    assert {values[1] for values in asked} == {7.0} and [s.parameter for s in sweeps] == ["alpha", "gamma",
                                                                                          "eps_gradient"]


@pytest.fixture(scope="module")
def search(brief, dataset, halfmap, tmp_path_factory) -> tuple[Any, list[object]]:
    """A finished search of two alphas on half of the particles, and its command line."""
    out = tmp_path_factory.mktemp("tune") / "out"
    line = ["tune-ssri", brief.out, "--alphas", "0.3,0.6", "--betas", 2, "--gammas", "0.1", "--eps-gradients", "1/2",
            "--particles", 100, "--truth", dataset / "truth.mrc", "--threads", 1, "--out", out]
    done = halfmap(line)
    assert done.status == 0, done.error
    return done, line


def test_every_trial_is_a_refinement_of_the_same_particles_with_the_run_s_settings(search, brief) -> None:
    done, _ = search
    trials = [f"alpha{alpha}_beta2_gamma0.1_eps_gradient0.5" for alpha in (0.3, 0.6)]
    assert {path.name for path in done.out.iterdir()} == {"particles.star", "tune_ssri.json", "tune_ssri.html", *trials}
    given = from_toml(brief.out / "settings.toml")
    chosen = read_star(done.out / "particles.star")
    assert [int((chosen.half == h).sum()) for h in (0, 1)] == [50, 50]
    whole = read_star(brief.out / "particles.star")
    halves = {(int(i), str(whole.stacks[s])): int(h)
              for i, s, h in zip(whole.image_index, whole.stack_index, whole.half, strict=True)}
    assert all(halves[int(i), str(chosen.stacks[s])] == int(h)
               for i, s, h in zip(chosen.image_index, chosen.stack_index, chosen.half, strict=True))
    for name, alpha in zip(trials, (0.3, 0.6), strict=True):
        used = from_toml(done.out / name / "settings.toml")
        assert (used.ss_alpha, used.ss_beta, used.ss_eps_gradient, used.ss_parameters) == (alpha, 2.0, 0.5, "fixed")
        assert used.particles == done.out / "particles.star" and used.regulariser == "sparse_smooth"
        assert (used.map, used.diameter, used.max_iterations) == (given.map, given.diameter, given.max_iterations)
        assert (done.out / name / "report.html").exists()


def test_the_best_values_are_a_command_that_runs_and_the_page_says_what_crosses(search, brief) -> None:
    done, _ = search
    found = json.loads((done.out / "tune_ssri.json").read_text())
    (sweep,) = found["sweeps"]
    assert found["particles"] == 100 and found["particles_of_run"] == 200 and len(found["trials"]) == 2
    for trial in sweep["trials"]:
        assert 0 < trial["judged"] < 1 and 0 < trial["error"] < 0.2 and -0.2 < trial["truth"] < 1
        assert trial["judged"] == pytest.approx((trial["areas"]["unmasked"] + trial["areas"]["corrected"]) / 2)
    command = found["refine_command"]
    particles = from_toml(brief.out / "settings.toml").particles
    assert command in done.said and command.startswith(f"halfmap refine {particles} ")
    options = shlex.split(command)
    assert options[options.index("--ss-alpha") + 1] == f"{sweep['chosen']:g}"
    assert options[options.index("--ss-eps-gradient") + 1] == "0.5"
    assert options.count("--regulariser") == 1 and options[options.index("--max-iterations") + 1] == "3"
    text = (done.out / "tune_ssri.html").read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text))
    for said in ("up to 1.0 bits", "cross-validated", "Published: 0.4 to 0.8", "100 of 200 particles", command):
        assert said in words
    assert "up to 1.0 bits" in done.said and "published 0.4 to 0.8" in done.said
    assert "http" not in re.sub(r"https://doi.org|http://www.w3.org/2000/svg", "", text)


def test_the_same_command_repeats_no_trial_and_a_longer_list_adds_only_what_is_new(
    search, halfmap, monkeypatch
) -> None:
    done, line = search
    before = json.loads((done.out / "tune_ssri.json").read_text())
    begun: list[Path] = []
    monkeypatch.setattr(refined_subsets, "_refine", lambda wanted: begun.append(wanted.out))
    again = halfmap(line)
    assert again.status == 0 and not begun, again.error
    assert json.loads((done.out / "tune_ssri.json").read_text()) == before
    longer = [*line[:3], "0.3,0.6,0.9", *line[4:]]
    stopped = halfmap(longer)  # the stub refines nothing, so there is nothing to measure
    assert [path.name for path in begun] == ["alpha0.9_beta2_gamma0.1_eps_gradient0.5"] and stopped.status == 2
    other = halfmap([*line, "--seed", 9])
    assert other.status == 2 and "--seed and --particles of before" in other.error and other.error.count("\n") == 1


@pytest.mark.parametrize(("options", "complaint"), [
    (["--alphas", "0.3;0.6"], "--alphas 0.3;0.6: give numbers with commas"),
    (["--alphas", "0.3,-1"], "must be at least 0"),
    (["--eps-gradients", "0,1"], "--eps-gradients 0,1: must be more than 0"),
    (["--betas", "1,1.0"], "names a value twice"),
    (["--alphas", "1", "--betas", "1", "--gammas", "0", "--eps-gradients", "1"], "leaves nothing to choose"),
    (["--truth", "absent.mrc"], "absent.mrc: no such file"),
])  # fmt: skip
def test_a_wrong_choice_ends_in_one_line_and_nothing_is_written(brief, halfmap, tmp_path, options, complaint) -> None:
    done = halfmap(["tune-ssri", brief.out, *options, "--out", tmp_path / "out"])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert not done.out.exists()


def test_a_folder_that_is_no_run_is_named_and_other_results_are_left_alone(brief, dataset, halfmap, tmp_path) -> None:
    done = halfmap(["tune-ssri", dataset, "--out", tmp_path / "out"])
    assert done.status == 2 and f"{dataset}: has no settings.toml" in done.error
    done = halfmap(["tune-ssri", brief.out, "--out", brief.out])
    assert done.status == 2 and "holds a run already" in done.error
