"""Several processes share the starts of `halfmap start`: to the bits of one, whoever makes which start."""

from __future__ import annotations

import os
import re
import signal

import pytest
from fixtures.jobs import left_of, none_left, until

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.grid import Grid
from halfmap.refinement.process_layout import Outlook, Room, automatic
from halfmap.refinement.starting_room import StartingDemand

GB = 10**9
FILES = ("class001.mrc", "class002.mrc", "start01_class001.mrc", "start02_class002.mrc", "particles.star",
         "starts.json")


def test_any_number_of_processes_gives_the_same_bits_and_goes_on_where_one_was_killed(
    simulated, halfmap, in_session, tmp_path
):
    folder = simulated(n=100, box=24, apix=7.0, snr=1.0)
    words = ["start", folder / "particles.star", "--diameter", 130, "--starts", 3, "--classes", 2, "--symmetry", "C1",
             "--resolution", 40]
    whole = halfmap([*words, "--threads", 1, "--out", tmp_path / "whole"])
    assert whole.status in (0, 1), whole.error

    out = tmp_path / "run"
    shared = [*words, "--threads", 2, "--processes", 2, "--out", out]
    first = in_session("-m", "halfmap", *shared)
    until(lambda: [*out.glob("checkpoint/start_*")], first)
    (other,) = {*left_of(first.pid)} - {first.pid}
    os.kill(other, signal.SIGKILL)
    said, error = first.communicate(timeout=100)
    assert first.returncode == 2 and none_left(first.pid), said + error
    assert re.fullmatch(r"halfmap: error: another process of this job [^\n]+ The same command, given again, goes on\n",
                        error)
    kept = len([*out.glob("checkpoint/start_*")])

    again = in_session("-m", "halfmap", *shared[:-4], "--processes", 3, "--threads", 3, "--out", out)
    said, error = again.communicate(timeout=100)
    assert again.returncode == whole.status and error == "" and none_left(again.pid), said + error
    assert said.count("made before the command was stopped") == kept > 0
    assert "3 processes" in said and said.count("nats an image") == 3 and not (out / "checkpoint").exists()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.out.iterdir()}
    for name in FILES:
        assert (out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_every_number_is_for_one_process_only(torchrun):
    counts = """if True:
        from halfmap.runtime import distributed
        with distributed.joined(False, lambda: "") as ranks:
            print(*ranks.each_once(40, "numbers"))
    """
    said = [process.communicate(timeout=100)[0].split() for process in torchrun(3, [counts], program=("-c",))]
    assert sorted(int(number) for some in said for number in some) == list(range(40))


def test_a_process_has_at_least_one_start_and_memory_for_what_it_holds():
    def roomy(processes: int) -> Room:
        return Room(2 * GB, 64 * GB // processes)

    assert automatic(64, Outlook(800, roomy, 4)).processes == 4
    assert "a start each" in automatic(64, Outlook(800, roomy, 4)).why
    small = automatic(64, Outlook(800, lambda n: Room(20 * GB, 64 * GB // n), 8))
    assert small.processes == 3 and "memory" in small.why


def test_starts_that_do_not_fit_are_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"a start needs 20.0 GB in each of 4 processes, and 16.0 GB are available; "
                                         r"take fewer --processes, fewer --images"):
        Room(20 * GB, 16 * GB).checked("a start", 4, "fewer --images")


def test_more_images_classes_and_detail_need_more_memory_and_symmetry_needs_less():
    def peak(images: int = 800, box: int = 50, classes: int = 1, group: str = "C1") -> int:
        grid = Grid(box, 200.0 / box)
        return StartingDemand(images, grid, 150.0, symmetry_group(group), classes).room(1).peak

    assert peak(group="C4") < peak() < min(peak(classes=2), peak(box=60), peak(images=80_000))


def test_more_processes_than_starts_are_refused(halfmap, dataset, tmp_path):
    done = halfmap(["start", dataset / "particles.star", "--diameter", 156, "--starts", 2, "--processes", 3, "--out",
                    tmp_path / "start"])
    assert done.status == 2 and "--processes 3: each makes starts, and there are 2" in done.error
    assert done.error.count("\n") == 1 and not done.out.exists()
