"""The starts of `halfmap start`, each made by one of its processes.

A start is the same to the bit whoever makes it, with any number of threads; where axes are searched for, with as many
(else to 1e-6 of their score). Whichever process is free takes the next one, because starts with symmetry and without
take different times. It leaves the start in its checkpoint, where the first process finds it.
"""

from __future__ import annotations

from dataclasses import replace

from halfmap.errors import InputError
from halfmap.refinement.soft_em import SoftTask
from halfmap.refinement.starts import Start, iterations_of, start_from_nothing
from halfmap.refinement.together import Together
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import counted
from halfmap.settings.start import StartSettings
from halfmap.workflows.start_checkpoints import StartCheckpoints

ROUTES = {"free": "", "axes": ", symmetry imposed along the axes that it has",
          "imposed": ", symmetry imposed from the beginning"}


class _Gathered:
    """The starts that the first process has so far. Slices are kept of the best of them only: no other's are looked at,
    and they are most of what a start holds."""

    def __init__(self, settings: StartSettings, task: SoftTask, kept: StartCheckpoints, log: RunLog) -> None:
        self.settings, self.task, self.kept, self.log = settings, task, kept, log
        self.starts: dict[int, Start] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the starts that are not there yet."""
        return [number for number in range(1, self.settings.starts + 1) if number not in self.starts]

    def add(self, start: Start, how: str = "") -> None:
        """Another start is there."""
        title = f"start {start.number} of {self.settings.starts}"
        self.log.notice(f"{title}: evidence {start.gain:.1f} nats an image{ROUTES[start.route]}{how}")
        self.starts[start.number] = start
        best = max(self.starts.values(), key=lambda one: (one.gain, -one.number))
        for number, one in self.starts.items():
            if one is not best:
                self.starts[number] = replace(one, last=replace(one.last, seen=[]))

    def take_up(self, how: str) -> None:
        """Take up what lies in checkpoints. A start that cannot be read is made again."""
        for number in self.missing:
            try:
                one = self.kept.load(number, self.task)
            except InputError as error:
                self.log.notice(f"start {number} is made again: {error}")
                self.kept.discard(number)
                continue
            if one is not None:
                self.add(one, how)


def shared_starts(
    task: SoftTask, settings: StartSettings, fine: float, processes: Together, kept: StartCheckpoints,
    log: RunLog | None = None,
) -> list[Start]:  # fmt: skip
    """All starts by their number, in the first process, which has a log. The others make some of them, and get none."""
    ranks, missing, gathered = processes.ranks, list[int](), None
    if log is not None:
        gathered = _Gathered(settings, task, kept, log)
        gathered.take_up(", made before the command was stopped")
        missing = gathered.missing
    missing = ranks.told(missing)
    for place in ranks.each_once(len(missing), "starts"):
        one = _one(task, settings, fine, missing[place])
        kept.save(one)
        if gathered is not None:
            gathered.add(one)
            if ranks.world > 1:
                gathered.take_up(", made by another process")
    ranks.wait()
    if gathered is None:
        return []
    gathered.take_up(", made by another process")
    for number in gathered.missing:  # its file is not to be seen from here, or is damaged
        gathered.add(_one(task, settings, fine, number))
    return [gathered.starts[number] for number in sorted(gathered.starts)]


def _one(task: SoftTask, settings: StartSettings, fine: float, number: int) -> Start:
    """Make a start, with a bar."""
    title = f"start {number} of {settings.starts}"
    with counted(title, iterations_of(number, task)) as advance:
        return start_from_nothing(task, number, fine, settings.seed, lambda: advance(1), settings.classes)
