"""halfmap-relion-job as RELION's External job calls it: in the project folder, with --o, --in_... and --j."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import starfile

from halfmap.particles.star import read_star

JOB = "External/job007/"
USUAL = ["--o", JOB, "--in_parts", "particles.star", "--in_3dref", "initial.mrc", "--j", "1"]
FEW = ["--diameter", "156", "--max-iterations", "2"]


def job(project: Path, *words: str) -> subprocess.Popen[str]:
    # As RELION does: it starts a job in the background of a shell, where SIGINT is ignored.
    return subprocess.Popen([sys.executable, "-m", "halfmap.plugins.relion_job", *words], cwd=project, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))  # fmt: skip


def ended(project: Path) -> set[str]:
    return {path.name.removeprefix("RELION_JOB_EXIT_") for path in (project / JOB).glob("RELION_JOB_*")}


def test_a_job_refines_and_says_what_other_jobs_may_take(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # RELION makes the folder before, and it may hold the mark of an earlier end.
    (project / JOB).mkdir(parents=True)
    (project / JOB / "run.out").touch()
    (project / JOB / "RELION_JOB_EXIT_FAILURE").touch()
    done = job(project, *USUAL, *FEW, "--regulariser", "nonuniform", "--pipeline_control", JOB)
    _, error = done.communicate()
    assert done.returncode == 0, error
    assert ended(project) == {"SUCCESS"}
    nodes = starfile.read(project / JOB / "RELION_OUTPUT_NODES.star", always_dict=True)["output_nodes"]
    kinds = dict(zip(nodes["rlnPipeLineNodeName"], nodes["rlnPipeLineNodeType"], strict=True))
    assert kinds == {JOB + "particles.star": 3, JOB + "map.mrc": 6, JOB + "half1_unfil.mrc": 10, JOB + "mask.mrc": 7}
    assert all((project / name).exists() for name in kinds)
    assert (project / JOB / "theta.mrc").exists()
    monkeypatch.chdir(project)
    table = read_star(Path(JOB) / "particles.star")
    assert table.rotations is not None and all(stack.exists() for stack in table.stacks)


@pytest.mark.parametrize(("words", "said"), [
    (["--o", JOB, "--in_3dref", "initial.mrc"], "Input particles (--in_parts)"),
    ([*USUAL, "--in_coords", "coords.star"], "takes particles"),
    (USUAL, "missing: --diameter"),
    ([*USUAL, *FEW, "--regularizer", "uniform"], "--regularizer"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_marks_the_job_as_failed(words: list[str], said: str, project: Path) -> None:
    done = job(project, *words)
    _, error = done.communicate()
    assert done.returncode == 2
    assert said in error and error.count("\n") == 1
    assert ended(project) == {"FAILURE"}
    assert not (project / JOB / "RELION_OUTPUT_NODES.star").exists()


def test_an_abort_keeps_what_was_done_and_continuing_the_job_finishes_it(project: Path) -> None:
    words = [*USUAL, "--diameter", "156", "--max-iterations", "9"]  # enough for an abort in between
    running, checkpoint = job(project, *words), project / JOB / "checkpoint" / "state"
    while running.poll() is None and not checkpoint.exists():
        time.sleep(0.1)
    (project / JOB / "RELION_JOB_ABORT_NOW").touch()  # as the interface makes it
    running.communicate()
    assert running.returncode == 130
    assert ended(project) == {"ABORTED"} and checkpoint.exists()
    again = job(project, *words)
    said, error = again.communicate()
    assert again.returncode == 0, error
    assert "goes on" in said
    assert ended(project) == {"SUCCESS"} and not checkpoint.exists()
