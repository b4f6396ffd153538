"""``halfmap-relion-job``: a whole refinement as an External job of RELION's interface (3.1 and later).

RELION calls the executable of an External job in the project folder. Its options are ``--o`` (the job's folder), the
choices of the Input page (``--in_parts``, ``--in_3dref``, ``--in_mask``), ``--label value`` for every line of the
Params page, here an option of `halfmap refine`, and ``--j``. RELION expects RELION_JOB_EXIT_SUCCESS or
RELION_JOB_EXIT_FAILURE in the job's folder, and RELION_OUTPUT_NODES.star with the files that further jobs may take.

The refinement is a process of its own, so that the job also ends properly where the refinement is killed, for instance
because memory runs out.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.options import OptionParser
from halfmap.plugins.command import MISTAKE, status_of

PROGRAM = "halfmap-relion-job"
SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED"))
ABORT_NOW = "RELION_JOB_ABORT_NOW"  # the interface makes this file when a user aborts the job
NODES = "RELION_OUTPUT_NODES.star"
OTHER_INPUTS = ("--in_mov", "--in_movies", "--in_mic", "--in_mics", "--in_coords")
LOOK = 0.5  # seconds between checks whether the refinement has ended or is to be aborted
INTERRUPTED = 130


@dataclass(frozen=True)
class NodeType:
    """RELION's type of an output file: its number in 3.1, its label from 4.0 on."""

    number: str
    label: str


# The files that further jobs may take.
RESULTS = {
    "particles.star": NodeType("3", "ParticleGroupMetadata.star.relion"),
    "map.mrc": NodeType("6", "DensityMap.mrc.relion"),
    "half1_unfil.mrc": NodeType("10", "DensityMap.mrc.relion.halfmap"),
    "mask.mrc": NodeType("7", "Mask3D.mrc.relion"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job and return the exit status: that of the refinement, or 2 for an error that the user can correct."""
    words = list(sys.argv[1:] if argv is None else argv)
    return status_of(PROGRAM, lambda: _run(words))


def _run(words: list[str]) -> int:
    given, refine_options = _parser().parse_known_args(words)
    out: Path | None = given.o
    if out is None:
        raise InputError("missing: --o, the job's folder; RELION gives it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (SUCCESS, FAILURE, ABORTED, ABORT_NOW):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--o {out}: cannot be written: {error.strerror}; choose another folder") from None
    try:
        command = refinement(given, refine_options)
        status, aborted = _followed(command, out)
        if status == 0:
            _write_nodes(out)
    except InputError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr, flush=True)
        status, aborted = MISTAKE, False
    (out / (ABORTED if aborted else FAILURE if status else SUCCESS)).touch()
    return status


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog=PROGRAM, usage=f"{PROGRAM} --o External/job001/ --in_parts particles.star --in_3dref map.mrc --diameter A "
                            "[--in_mask mask.mrc] [--j N] [options of halfmap refine]",
        description="A Halfmap refinement as an External job of RELION's interface.",
        epilog="All other options are handed to `halfmap refine` (see halfmap refine --help): on RELION's Params page, "
               "write diameter, symmetry or regulariser as a label and its value beside it. A job that was stopped "
               "goes on where it was when it is continued.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--o", type=Path, metavar="folder", help="the job's folder")
    parser.add_argument("--in_parts", metavar="particles.star", help="particles: Input particles")
    parser.add_argument("--in_3dref", metavar="map.mrc", help="initial map: Input 3D reference")
    parser.add_argument("--in_mask", metavar="mask.mrc", help="solvent mask: Input 3D mask")
    parser.add_argument("--j", metavar="N", help="threads: Number of threads")
    parser.add_argument("--pipeline_control", help=argparse.SUPPRESS)  # the job's folder, which --o names already
    for name in OTHER_INPUTS:
        parser.add_argument(name, dest="other", action="append", help=argparse.SUPPRESS)
    return parser


def refinement(given: argparse.Namespace, refine_options: list[str]) -> list[str]:
    """The command of a job: a new refinement, or to resume the one in the job's folder.

    Raises InputError where an input is missing or of a kind that a refinement cannot take.
    """
    threads = ["--threads", given.j] if given.j else []
    halfmap = [sys.executable, "-m", "halfmap"]
    if (given.o / "checkpoint" / "state").exists():
        print(f"{given.o}: goes on where it was stopped, with the settings that it was begun with", flush=True)
        return [*halfmap, "resume", str(given.o), *threads]
    if given.other:
        raise InputError("movies, micrographs or coordinates among the inputs: a refinement takes particles; leave "
                         "them empty and give Input particles")
    for value, label in ((given.in_parts, "Input particles (--in_parts)"),
                         (given.in_3dref, "Input 3D reference (--in_3dref)")):
        if not value:
            raise InputError(f"missing: {label}; choose it on the job's Input page")
    mask = ["--mask", given.in_mask] if given.in_mask else []
    return [*halfmap, "refine", given.in_parts, "--map", given.in_3dref, "--out", str(given.o), *mask, *threads,
            *refine_options]


def _followed(command: list[str], out: Path) -> tuple[int, bool]:
    """Run a command to its end. Returns its exit status, and whether RELION's interface or a signal aborted it."""
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)  # queues end a job by SIGTERM
    # The command gets Ctrl-C only once, from here, and also if this process ignores it: RELION starts jobs in the
    # background of a shell.
    child = subprocess.Popen(command, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    aborted = False
    try:
        while child.poll() is None and not aborted:
            time.sleep(LOOK)
            aborted = (out / ABORT_NOW).exists()
    except KeyboardInterrupt:
        aborted = True
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)  # so it keeps its checkpoint and can be resumed
            child.wait()
        signal.signal(signal.SIGTERM, ended)
        (out / ABORT_NOW).unlink(missing_ok=True)
    aborted = aborted and child.returncode != 0  # an abort after the end has stopped nothing
    return (INTERRUPTED if aborted else child.returncode), aborted


def _write_nodes(out: Path) -> None:
    """Write RELION_OUTPUT_NODES.star: the files that other jobs may take, by paths from the project folder."""
    from halfmap.particles.star_text import write_tables

    there = [name for name in RESULTS if (out / name).exists()]
    write_tables(out / NODES, {"output_nodes": {
        "rlnPipeLineNodeName": [str(out / name) for name in there],
        "rlnPipeLineNodeType": [RESULTS[name].number for name in there],
        "rlnPipeLineNodeTypeLabel": [RESULTS[name].label for name in there],
    }})  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
