"""Results of the benchmarks as tables, each with the command that repeats it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_UNIT = re.compile(r"(?<=[\d→%]) (A\b|deg\b|→|%|[\d.]+$)")


def read(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; numbers stay together with their units and arrows."""
    kept = [[_UNIT.sub("\u00a0\\1", cell) for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in kept]) + "\n"


def repeat(results: Path, name: str, record: Mapping[str, Any]) -> str:
    """How a measurement is repeated: the command as it was recorded, the file, the commit and the day."""
    command = record["benchmark"]
    script = command.split()[0]
    (found,) = results.parent.glob(f"*/{script}")
    commit = str(record.get("commit", ""))[:7]
    where = f"benchmarks/results/{name}.json" + (f", commit {commit}" if len(commit) == 7 and " " not in commit else "")
    return (
        f"\n```bash\npython benchmarks/{found.parent.name}/{command}\n```\n\n"
        f'<span class="facts">{where}, {str(record.get("time", ""))[:10]}</span>\n'
    )


def limit(value: float, worst: float = 12.0) -> str:
    return f"worse than {worst:g}" if value >= worst else f"{value:.2f}"
