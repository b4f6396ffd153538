"""A STAR file of a million particles is read in seconds and written in seconds, and takes little memory.

python benchmarks/speed/star_files.py [--rows 1000000] [--work FOLDER] [--result FILE.json]

Writes a file with the 25 columns of RELION's refinements, reads it, gives every particle a new pose, half set and the
five columns that a refinement adds, and writes that. Beside it the `starfile` library reads the same file and writes
what it read, and relion_star_printtable prints one column, where they are installed. Each runs in a process of its own;
Halfmap for the second time, when Numba has compiled. Prints the numbers and writes benchmarks/results/star_files.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

CLAIMS = Path(__file__).parents[1] / "claims"
sys.path.insert(0, str(CLAIMS))
from evidence import RESULTS, circumstances, write_record  # noqa: E402

PER_MICROGRAPH = 150
OPTICS = ("\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
          "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
          "_rlnImageDimensionality #8\nopticsGroup1 1 300.000000 2.700000 0.100000 1.100000 256 2\n\n\n"
          "# version 30001\n\ndata_particles\n\nloop_\n")
COLUMNS = ("rlnCoordinateX", "rlnCoordinateY", "rlnImageName", "rlnMicrographName", "rlnOpticsGroup", "rlnDefocusU",
           "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfMaxResolution",
           "rlnCtfFigureOfMerit", "rlnCtfScalefactor", "rlnGroupNumber", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
           "rlnOriginXAngst", "rlnOriginYAngst", "rlnClassNumber", "rlnNormCorrection", "rlnLogLikeliContribution",
           "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples", "rlnRandomSubset")

HALFMAP = """
import numpy as np, torch
from scipy.spatial.transform import Rotation
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import with_poses
before = resident()
begin("read")
table = read_star(source)
end("read")
measured["bytes_a_particle"] = (resident() - before) / len(table)
random, n = np.random.default_rng(0), len(table)
added = ("rlnMaxValueProbDistribution", "rlnLogLikeliContribution", "halfmapAngleSd", "halfmapShiftSd",
         "halfmapParticleProbability")
table = with_poses(table, torch.from_numpy(Rotation.random(n, rng=0).as_matrix()),
                   torch.from_numpy(random.normal(size=(n, 2))), np.arange(n) % 2,
                   {label: random.random(n).astype(np.float32) for label in added})
begin("write")
write_star(target, table)
end("write")
"""
STARFILE = """
import starfile
before = resident()
begin("read")
tables = starfile.read(source)
end("read")
measured["bytes_a_particle"] = (resident() - before) / len(tables["particles"])
begin("write")
starfile.write(tables, target, overwrite=True)
end("write")
"""
AROUND = """
import gc, json, resource, sys, time
source, target, measured, begun = sys.argv[1], sys.argv[2], {}, {}
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def begin(what):
    begun[what] = time.process_time(), time.perf_counter()
def end(what):
    cpu, wall = begun[what]
    measured[what] = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
"""


def made(path: Path, rows: int) -> None:
    """Write the file, in the layout of RELION's numbers."""
    random = np.random.default_rng(0)
    with path.open("w") as stream:
        stream.write(OPTICS + "".join(f"_{label} #{place}\n" for place, label in enumerate(COLUMNS, 1)))
        for row in range(rows):
            v, mic = random.random(16), row // PER_MICROGRAPH
            name = f"Movies/FoilHole_{mic:06d}_Data_0001_frames"
            numbers = (10000 + 5000 * v[2], 9800 + 5000 * v[2], 90 * v[3], 0, 0, 3 + v[4], v[5], 1)
            poses = (360 * v[6] - 180, 180 * v[7], 360 * v[8] - 180, 10 * v[9] - 5, 10 * v[10] - 5)
            stream.write(" ".join((
                f"{4000 * v[0]:12.6f} {4000 * v[1]:12.6f} {row % PER_MICROGRAPH + 1:06d}@Extract/job012/{name}.mrcs",
                f"MotionCorr/job002/{name}.mrc            1", *(f"{value:12.6f}" for value in numbers),
                f"{mic + 1:12d}", *(f"{value:12.6f}" for value in poses),
                f"           1 {v[11]:12.6f} {1e5 * v[12]:.6e} {v[13]:12.6f} {int(10 * v[14]) + 1:12d} "
                f"{int(2 * v[15]) + 1:12d} \n")))


def measured(code: str, source: Path, target: Path, times: int = 1) -> dict[str, Any]:
    """What a program in a process of its own takes, the last of so many times."""
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", AROUND + code + "\nprint(json.dumps(measured))", source, target],
                              capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def printed(source: Path) -> dict[str, Any]:
    """The wall time of relion_star_printtable for one column."""
    begun = time.perf_counter()
    subprocess.run(["relion_star_printtable", source, "data_particles", "_rlnDefocusU"], stdout=subprocess.DEVNULL,
                   check=True)
    return {"read": {"wall_seconds": time.perf_counter() - begun}}


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Time and memory of large STAR files.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--result", type=Path, default=RESULTS / "star_files.json", metavar="FILE.json")
    given = parser.parse_args()
    record = circumstances()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        source, target = Path(folder) / "particles.star", Path(folder) / "out.star"
        made(source, given.rows)
        size = source.stat().st_size
        results = {"halfmap": measured(HALFMAP, source, target, times=2)}
        if find_spec("starfile"):
            results["starfile"] = measured(STARFILE, source, target)
        if shutil.which("relion_star_printtable"):
            results["relion_star_printtable"] = printed(source)
    print(f"{given.rows:,} rows of {len(COLUMNS)} columns, {size / 1e6:.0f} MB")
    for name, found in results.items():
        print(name, json.dumps(found))
    write_record(given.result, record | {"rows": given.rows, "bytes": size, "programs": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
