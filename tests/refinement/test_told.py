"""A finding is said when it begins and when it ends, and all of them at the end."""

from dataclasses import asdict
from pathlib import Path

from halfmap.finding import Finding
from halfmap.refinement.told import findings_in, spells, summed_up, tell
from halfmap.runtime.log import PlainTerminal, RunLog

LOST, TAIL = Finding("lost", "poses are lost", "poses"), Finding("long tail", "the tail is long", "FSC")
EMPTY = Finding("empty images", "3 of 10 images are empty", "images", "note")
RUN = [{"iteration": i, "findings": [asdict(one) for one in found]}
       for i, found in enumerate([[EMPTY], [EMPTY, LOST], [EMPTY, LOST], [EMPTY, TAIL]], start=1)]


def test_a_finding_is_said_once_when_it_begins_and_named_when_it_ends(tmp_path: Path) -> None:
    said: list[str] = []
    with RunLog(tmp_path / "log.txt", PlainTerminal(said.append)) as log:
        for before, now in zip([{}, *RUN[:-1]], RUN, strict=True):
            tell(findings_in(before), findings_in(now), log)
    assert said == ["3 of 10 images are empty", "WARNING: poses are lost", "WARNING: the tail is long",
                    "no longer so: lost"]


def test_a_finding_in_other_figures_is_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    with RunLog(tmp_path / "log.txt", PlainTerminal(said.append)) as log:
        tell([LOST], [Finding("lost", "poses are lost by 12 degrees", "poses")], log)
    assert said == []


def test_the_end_sums_up_what_stands_and_what_is_over() -> None:
    assert summed_up(RUN) == "warnings that stand: long tail (since iteration 4). over by now: lost (iterations 2 to 3)"
    assert summed_up(RUN[:1]) == "no warnings"
    assert [spell.stands for spell in spells(RUN)] == [True, True, False]


def test_warnings_of_older_runs_are_read_as_findings() -> None:
    (old,) = spells([{"iteration": 1, "warnings": ["most poses are wrong"]}])
    assert old.finding.text == "most poses are wrong" and old.finding.level == "warning"
