"""Evidence for what a run costs: seconds of CPU time, and memory."""

from collections.abc import Callable
from pathlib import Path

from generate.regularisers import SETS
from generate.tables import read, repeat, table


def _speed(results: Path) -> str:
    """Whole refinements, beside version 0.1.0."""
    before, now = read(results, "whole_0.1.0"), read(results, "whole_now")
    rows = []
    for name, v in now["results"].items():
        b = before["results"].get(name)
        if b:
            rows.append(
                [
                    f"{SETS[v['set']]}, seed {v['seed']}",
                    f"{b['cpu_seconds']:.0f} → {v['cpu_seconds']:.0f}",
                    *(
                        f"{b[k]:.{d}f} → {v[k]:.{d}f}"
                        for k, d in (("pose_median", 2), ("truth_mean_05", 2), ("truth_mean_average", 3))
                    ),
                ]
            )
    return table(
        [
            "set",
            "CPU seconds",
            "pose error, deg",
            "map to truth, FSC 0.5, A",
            "mean FSC beyond 12 A",
        ],
        rows,
    ) + repeat(results, "whole_now", now)


def _kernels(results: Path) -> str:
    """Compiled kernels beside plain torch."""
    record = read(results, "kernels")
    rows = [
        [work, name, *(f"{v[box]:,.0f}" for box in ("64", "128", "256"))]
        for work, found in record["per_core_second"].items()
        for name, v in found.items()
    ]
    return table(["a second of one core", "", "box 64", "box 128", "box 256"], rows) + repeat(
        results, "kernels", record
    )


def _memory(results: Path) -> str:
    """Memory measured and planned."""
    record = read(results, "memory")
    rows = [
        [
            name,
            *(
                f"{v[part][kind] / 1e6:,.0f}"
                for part in ("half maps", "regulariser")
                for kind in ("measured", "planned")
            ),
        ]
        for name, v in record["bytes"].items()
    ]
    return table(
        [f"MB, box {record['box']}", "half maps, mask, FSC: measured", "planned", "regulariser: measured", "planned"],
        rows,
    ) + repeat(results, "memory", record)


BLOCKS: dict[str, Callable[[Path], str]] = {"speed": _speed, "kernels": _kernels, "memory": _memory}
