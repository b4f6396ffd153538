"""What a GPU makes of Halfmap: first whether it computes the same, then how fast, against targets.

python benchmarks/speed/gpu.py --out FOLDER [--boxes 128 256 384] [--images 2048] [--only PART ...] [--result FILE.json]
python benchmarks/speed/gpu.py --out FOLDER --small

In turn, each part written to benchmarks/results/gpu.json (or --result) as soon as it is done:
    kernels     every kernel of Triton against float64 plain torch (gpu_kernels.py), then its rate at each box, and that
                of plain torch on the same GPU; bandwidth of a copy and speed of a matrix product are measured first,
                and rates stand beside them
    agreement   one refinement of simulated particles on the CPU with two seeds and on the GPU: poses and maps differ as
                those of the two seeds do, or less
    options     three of its iterations with --deterministic, twice: whether all bits are the same, and what it costs;
                and with sums in files, one quarter set at a time on the GPU
    processes   the same in two processes by NCCL, where there are two GPUs
    iterations  local and final iterations from true poses, images a second, and seconds of the solve, at each box;
                images a second that cross to the GPU, by the type in which they are stored; seconds of regularisers
    whole       a refinement of --images particles at box 256 from a 30 A map; with 100,000 particles each of its
                iterations would have so many times more (an upper estimate: the subsets of the first ones do not grow)
--small, where there is no GPU: every kernel at a box of 12, run by Triton's interpreter on the CPU, and what times
crossings and solves. TRITON_INTERPRET=1 must be set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
from datasets import simulated
from evidence import RESULTS, CommandFailed, circumstances, run_measured, write_record
from gpu_kernels import Peaks, compared, crossings, peaks, rates, solves
from judge import shown

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.mrc import read_map
from halfmap.particles.star import read_star
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.poses import pose_error

PARTS = ("kernels", "agreement", "options", "processes", "iterations", "whole")
STAGES = ("read", "search", "insert")
EXTENT = 192.0  # A, of every box
FULL = 100_000  # particles
TARGETS = {
    "images a second of a local iteration at box 256": 20_000.0,
    "insertion, part of the copy's bandwidth": 0.5,
    "search, part of the matrix product's speed": 0.4,
    "minutes for 100,000 particles at box 256": 10.0,
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Halfmap on a GPU: the same results, and how fast.")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs; images are reused")
    parser.add_argument("--boxes", type=int, nargs="+", default=[128, 256, 384])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="the kernels by Triton's interpreter, without a GPU")
    parser.add_argument("--result", type=Path, default=RESULTS / "gpu.json", metavar="FILE.json")
    return parser.parse_args()


def refined(folder: Path, words: list[object], processes: int = 1) -> float:
    """Run ``halfmap refine`` with these words, in so many processes of torchrun; wall seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    begin: list[object] = [sys.executable, "-m", "halfmap"]
    if processes > 1:
        begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m",
                 "halfmap"]
    log = folder.with_name(f"{folder.name}.log")
    return run_measured([str(word) for word in (*begin, "refine", *words, "--out", folder)], log).wall_seconds


def records(folder: Path) -> list[dict[str, Any]]:
    """What a run says of its iterations."""
    return [json.loads(line) for line in (folder / "iterations.jsonl").read_text(encoding="utf-8").splitlines()]


def difference(first: Path, second: Path) -> dict[str, float]:
    """How two runs of the same particles differ: median angle of the poses, and where their maps' FSC is 0.5."""
    poses = pose_error(*(read_star(folder / "particles.star") for folder in (first, second)), symmetry_group("C1"))
    one, other = (read_map(folder / "map.mrc") for folder in (first, second))
    curve = fsc(one.data, other.data)
    return {"poses_median_deg": poses["median"], "fsc_05_A": resolution(curve, len(one.data), one.pixel_size, 0.5)}


def agreement(out: Path, processes: bool) -> dict[str, Any]:
    """Refinements on CPU and GPU, and those of two GPUs where ``processes`` are asked for."""
    data = simulated("transporter", 1, 1000, ["--box", "64", "--apix", "3", "--snr", "0.1"], out / "images_64")
    words: list[object] = [data.particles, "--map", data.map, "--diameter", f"{data.diameter:g}", "--regulariser",
                           "nonuniform"]
    if processes:
        seconds = refined(out / "gpus_2", [*words, "--seed", 1, "--device", "cuda"], 2)
        return {"wall_seconds": seconds, "against_one_gpu": difference(out / "gpu_1", out / "gpus_2")}
    found: dict[str, Any] = {}
    for name, device, seed in (("cpu_1", "cpu", 1), ("cpu_2", "cpu", 2), ("gpu_1", "cuda", 1)):
        found[name] = refined(out / name, [*words, "--seed", seed, "--device", device])
    return {"wall_seconds": found, "two_seeds_on_cpu": difference(out / "cpu_1", out / "cpu_2"),
            "gpu_and_cpu": difference(out / "cpu_1", out / "gpu_1")}


def options_tried(out: Path) -> dict[str, Any]:
    """Refinements that must repeat, and one whose sums the GPU does not hold, beside that of `agreement`."""
    data = simulated("transporter", 1, 1000, ["--box", "64", "--apix", "3", "--snr", "0.1"], out / "images_64")
    words: list[object] = [data.particles, "--map", data.map, "--diameter", f"{data.diameter:g}", "--regulariser",
                           "nonuniform", "--seed", 1, "--device", "cuda", "--max-iterations", 3]
    found: dict[str, Any] = {"as_it_is": refined(out / "as_it_is", words)}
    for name in ("deterministic_1", "deterministic_2"):
        found[name] = refined(out / name, [*words, "--deterministic"])
    found["sums_on_disk"] = refined(out / "sums_on_disk", [*words, "--sums", "disk"])
    first, second = (read_map(out / f"deterministic_{i}" / "map.mrc").data for i in (1, 2))
    return {"wall_seconds": found, "same_bits": bool(torch.equal(first, second)),
            "with_sums_on_disk": difference(out / "as_it_is", out / "sums_on_disk")}


def iterations(box: int, count: int, out: Path) -> dict[str, dict[str, float]]:
    """A local iteration and the final one from true poses and map: images a second, seconds of the solve."""
    pixel = EXTENT / box
    more = ["--box", str(box), "--apix", f"{pixel:g}", "--snr", "0.1", "--bfactor", "20"]
    data = simulated("transporter", 1, count, more, out / f"images_{box}")
    words = [data.truth, "--map", data.map.with_name("truth.mrc"), "--diameter", f"{data.diameter:g}",
             "--max-iterations", 3, "--search", "local", "--ini-high", f"{3 * pixel:g}", "--device", "cuda"]
    refined(out / f"iterations_{box}", words)
    rows = records(out / f"iterations_{box}")[1:]  # the first one compiles
    return {name: {"images_a_second": count / sum(row["seconds"][stage] for stage in STAGES),
                   "solve_seconds": row["seconds"]["solve"]}
            for name, row in zip(("local", "final"), rows, strict=True)}


def whole(count: int, out: Path) -> dict[str, Any]:
    """A refinement from a 30 A map at box 256, and what it would take with FULL particles."""
    more = ["--box", "256", "--apix", f"{EXTENT / 256:g}", "--snr", "0.1", "--bfactor", "20"]
    data = simulated("transporter", 1, count, more, out / "images_256")
    words = [data.particles, "--map", data.map, "--diameter", f"{data.diameter:g}", "--device", "cuda"]
    wall = refined(out / "whole", words)
    rows = records(out / "whole")
    each = sum(row["seconds"][stage] for row in rows for stage in STAGES)
    solve = sum(row["seconds"]["solve"] for row in rows)
    return {"images": count, "iterations": len(rows), "wall_seconds": wall, "images_seconds": each,
            "solve_seconds": solve, "minutes_for_100000": (each * FULL / count + solve) / 60}


def table(record: dict[str, Any], targets: dict[str, float]) -> list[tuple[str, list[float | None], str]]:
    """What was measured, beside the targets."""
    return [(name, [record.get("reached", {}).get(name), target], ",.3g") for name, target in targets.items()]


def main() -> int:
    """Do all parts that are asked for."""
    given = options()
    if given.small:
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise SystemExit("gpu: --small runs Triton's interpreter: set TRITON_INTERPRET=1")
        compared(torch.device("cpu"), 12)
        crossings(torch.device("cpu"), 12, 4, 2)
        solves(torch.device("cpu"), 12)
        print("every kernel of Triton agrees with plain torch")
        return 0
    if not torch.cuda.is_available():
        raise SystemExit("gpu: no GPU that this torch can use; --small runs without one")
    given.out.mkdir(parents=True, exist_ok=True)
    torch.cuda.init()
    device = torch.device("cuda", 0)
    record: dict[str, Any] = {**circumstances(), "gpu": torch.cuda.get_device_name(0), "reached": {}, "seconds": {}}
    reached: dict[str, float] = record["reached"]

    def kernels() -> object:
        compared(device, 32)
        found: Peaks = peaks(device)
        by_box = {box: rates(device, box, found) for box in given.boxes}
        last = by_box.get(256) or by_box[given.boxes[-1]]
        reached["insertion, part of the copy's bandwidth"] = last["insert_samples_"]["of_copy"]
        reached["search, part of the matrix product's speed"] = last["score_block"]["of_product"]
        return {"copy_GB_a_second": found.copy / 1e9, "product_TFLOP_a_second": found.product / 1e12, "boxes": by_box}

    def iterated() -> object:
        by_box: dict[Any, Any] = {box: iterations(box, given.images, given.out) for box in given.boxes}
        boxes = [box for box in given.boxes if box <= 256]  # a larger one would take the time of all others
        by_box["crossing"] = {box: crossings(device, box) for box in boxes}
        by_box["solves"] = {box: solves(device, box) for box in boxes}
        if 256 in by_box:
            reached["images a second of a local iteration at box 256"] = by_box[256]["local"]["images_a_second"]
        return by_box

    def refined_whole() -> object:
        found = whole(given.images, given.out)
        reached["minutes for 100,000 particles at box 256"] = found["minutes_for_100000"]
        return found

    parts = {"kernels": kernels, "agreement": lambda: agreement(given.out, False),
             "options": lambda: options_tried(given.out),
             "processes": lambda: agreement(given.out, True) if torch.cuda.device_count() > 1 else "one GPU",
             "iterations": iterated, "whole": refined_whole}
    for name in given.only:
        began = time.perf_counter()
        try:
            record[name] = parts[name]()
        except (CommandFailed, InputError, RuntimeError) as error:  # the other parts may still tell something
            record[name] = {"failed": str(error)}
            print(f"gpu: {name}: {error}", file=sys.stderr)
        record["seconds"][name] = time.perf_counter() - began
        write_record(given.result, record)
        print(name, json.dumps(record[name], indent=1, default=float), flush=True)
    shown(table(record, TARGETS), ["reached", "target"], "targets")
    return int(any(isinstance(record[name], dict) and "failed" in record[name] for name in given.only))


if __name__ == "__main__":
    sys.exit(main())
