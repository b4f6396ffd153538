"""Large pages of memory for maps and batches of images.

A half volume is read and written at scattered places, and every pass over images fills fresh memory. With pages of 4 kB
both spend much of their time on the page tables: a fifth to a third of a refinement at box 256. Linux gives pages of
2 MB to those who ask for them (where they are not given to all), and glibc asks if its tunable says so, which it reads
only when a process starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
ASK = "glibc.malloc.hugetlb"
WHO_GETS_THEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask_for_large_pages() -> None:
    """Start this program anew, with the same arguments, so that it asks for large pages. Returns where it does already,
    where a user has chosen otherwise, and where asking changes nothing."""
    chosen = os.environ.get(TUNABLES, "")
    if ASK in chosen or not _given_when_asked():
        return
    tunables = ":".join(filter(None, (chosen, f"{ASK}=1")))
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {TUNABLES: tunables})


def _given_when_asked() -> bool:
    """Whether Linux gives large pages to those who ask for them only."""
    try:
        return "[madvise]" in WHO_GETS_THEM.read_text()
    except OSError:
        return False
