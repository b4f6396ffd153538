"""Run one MPI rank and write down what it used: rank_usage.py FOLDER COMMAND [WORD ..] inside mpirun.

FOLDER/rankN.json then holds cpu_seconds (user + system), wall_seconds and peak_rss_mb of rank N.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

started = time.monotonic()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or "0"
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps({
    "cpu_seconds": usage.ru_utime + usage.ru_stime, "wall_seconds": time.monotonic() - started,
    "peak_rss_mb": usage.ru_maxrss / 1024}) + "\n")
sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
