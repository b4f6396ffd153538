"""What every benchmark keeps beside its numbers: commit, machine, versions, commands, and what a command cost."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from halfmap.maps.mrc import replaced_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("numpy", "scipy", "numba", "torch", "mrcfile", "gemmi")


@dataclass(frozen=True)
class Cost:
    """What a command and all processes it waited for used. peak_rss is that of its largest single process."""

    command: str
    cpu_seconds: float
    wall_seconds: float
    peak_rss_mb: float


class CommandFailed(RuntimeError):
    """A measured command ended with an error; the message says where its output is."""


def run_measured(command: Sequence[str | Path], log: Path, cwd: Path | None = None) -> Cost:
    """Run a command, its output into `log`, and measure it (wait4: user and system time of it and its children).

    Raises CommandFailed where it does not end well.
    """
    words = [str(word) for word in command]
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(words, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.terminate()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandFailed(f"{shlex.join(words)}\nended with status {process.returncode}; see {log}")
    # ru_maxrss is in bytes on macOS and in kibibytes elsewhere
    rss = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Cost(shlex.join(words), usage.ru_utime + usage.ru_stime, time.monotonic() - started, rss)


def circumstances() -> dict[str, Any]:
    """Commit, machine, versions and the command line of this benchmark."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "machine": {
            "cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count(), "memory_gb": round(_memory() / 1e9, 1), "system": platform.platform()},
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "halfmap": _own_version(), **_versions()},
    }


def commit() -> str:
    """The project's commit, with a mark where the working tree differs from it."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "HEAD")
    return f"{found}{' with changes' if git('status', '--porcelain') else ''}" if found else "not committed"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _own_version() -> str:
    from halfmap import __version__

    return __version__


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result as JSON: dataclasses become objects, and of absolute paths the last two parts are kept, so that
    the evidence of one machine can be published and read on another."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, str | Path):
            return without_machine(str(value))
        if isinstance(value, float):
            return float(f"{value:.6g}")
        return plain(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value

    with replaced_atomically(path) as stream:  # a benchmark that is stopped here goes on from the file
        stream.write((json.dumps(plain(content), indent=1) + "\n").encode())
    print(f"written: {path}")


def without_machine(text: str) -> str:
    """The text with absolute paths cut to their last two parts."""
    return re.sub(r"""(?<![\w.@:])/(?:[^\s/'"]+/)+([^\s/'"]+/[^\s/'"]+)""", r"\1", text)
