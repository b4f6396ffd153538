"""Evidence at the papers' scale: a table and a figure for each set of benchmarks/results/paper_scale.json."""

import re
from pathlib import Path

from generate.figures import curves
from generate.tables import limit, read, repeat, table

_ROWS = (
    ("map to truth, FSC 0.5, A", "truth_mean_05", 2),
    ("map to truth, FSC 0.143, A", "truth_mean_0143", 2),
    ("mean FSC with the truth beyond 12 A", "truth_mean_average", 3),
    ("half map 1 to truth, FSC 0.5, A", "truth_half1_05", 2),
    ("pose error, median, deg", "pose_median", 2),
    ("pose error, 80th percentile, deg", "pose_p80", 2),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", 2),
    ("half maps, FSC 0.143 corrected, A", "half_0143_corrected", 2),
    ("half maps, FSC 0.143 in the rigid part, A", "half_0143_rigid", 2),
    ("CPU seconds", "cpu_seconds", 0),
)


def paper_scale(results: Path) -> str:
    """Every set and seed: the paper's figures, curves with the truth, and a table of all methods."""
    record = read(results, "paper_scale")
    parts = []
    for name, (protein, count, uniform, adaptive) in record["paper"].items():
        for seed in sorted({v["seed"] for v in record["results"].values() if v["set"] == name}):
            runs = {v["regulariser"]: v for v in record["results"].values() if v["set"] == name and v["seed"] == seed}
            some = next(iter(runs.values()))
            parts.append(f"## {name}, {some['count']:,} particles, seed {seed}\n")
            parts.append(
                f"After {protein} (paper A: {count:,} particles; FSC 0.143 within a mask {uniform} A with uniform, "
                f"{adaptive} A with non-uniform refinement).\n"
            )
            sampling = re.search(r"--box (\d+) --apix ([\d.]+)", some.get("origin", ""))
            if sampling and all("truth_mean_fsc" in v for v in runs.values()):
                side = int(sampling[1]) * float(sampling[2])
                lines = {method: v["truth_mean_fsc"] for method, v in runs.items()}
                parts.append(curves(lines, side, "FSC with the truth", f"{name}: FSC of the map with the truth."))
            rows = [[label, *(_shown(v.get(key), key, digits) for v in runs.values())] for label, key, digits in _ROWS]
            parts.append(table(["", *runs], rows))
    return "\n".join(parts) + repeat(results, "paper_scale", record)


def _shown(value: float | None, key: str, digits: int) -> str:
    if value is None:
        return ""
    return limit(value) if key.startswith("truth") and key.endswith(("05", "0143")) else f"{value:,.{digits}f}"
