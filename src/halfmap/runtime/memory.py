"""How much memory the process may use: what the machine has left, and what a container or batch system grants.

A process that exceeds the limit of its control group (version 1 or 2) is killed, so the limit counts like memory that
is not there.
"""

from __future__ import annotations

from pathlib import Path

GIGABYTE = 10**9
UNLIMITED = 1 << 60  # control groups of version 1 give a larger number where there is no limit


def allowance(limit: float | None = None, processes: int = 1, root: Path = Path("/")) -> int:
    """Bytes that the process may hold in total, including what it holds now.

    limit: what the user allows all processes together, in GB of 10^9 bytes. processes: how many equal ones share the
    machine.
    """
    most = available(root) // processes + resident(root)
    return most if limit is None else min(most, int(limit * GIGABYTE) // processes)


def available(root: Path = Path("/")) -> int:
    """Bytes that may still be taken. The page cache counts as free, because the system gives it back.

    root: where /proc and /sys are looked for.
    """
    free = [_meminfo(root / "proc/meminfo"), *_groups(root)]
    known = [value for value in free if value is not None]
    return max(0, min(known)) if known else 8 * GIGABYTE


def resident(root: Path = Path("/")) -> int:
    """Bytes of memory that the process holds now, without mapped files."""
    return _status(root / "proc/self/status", "RssAnon")


def _status(path: Path, name: str) -> int:
    """The value in bytes of a line of a /proc file such as "MemAvailable: 1 kB"; 0 where there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _meminfo(path: Path) -> int | None:
    found = _status(path, "MemAvailable")
    return found or None


def _groups(root: Path) -> list[int | None]:
    """Bytes left under the limits of the process's control group and of all groups above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    left: list[int | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / path.lstrip("/")
        # In a container the group's own path is often not there, but its files lie at the top.
        left += [_left(folder, *files) for folder in {group, *group.parents} if folder.is_relative_to(base)]
    return left


def _left(group: Path, limit: str, used: str) -> int | None:
    """The limit less what is used; None where there is no limit. File pages not used lately count as free."""
    try:
        said = (group / limit).read_text().strip()
        if not said.isdigit() or int(said) >= UNLIMITED:
            return None
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
        return int(said) - int((group / used).read_text()) + files
    except (OSError, ValueError):
        return None
