"""What a classification searches next, and when it stops.

Where all classes start from one map, they are drawn at random in the first iteration. In a global search the images'
say in which class they belong then grows from a part to all of it (`SHARPNESS`): poses are not known yet, and classes
that are noise must not claim images for good. At known poses that only takes longer (15 iterations against 18 to the
same classes, `benchmarks/README.md`). The band grows with what the half maps of the classes agree on. The end comes
when images stand still in their classes; once more, all shells are back-projected. That images move by less than
chance would move them, were their classes drawn by their shares, is no reason to end: where shares creep, right images
are still won (70 % right of weak images when a tenth of that moved, 75 % fifteen iterations later). A run that ends by
its number of iterations says what still moved, and what chance would move (`class_records.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from halfmap.expectation.search import Sampling
from halfmap.refinement.schedule import Plan, Progressed, Schedule, margin

SHARPNESS = (1.0, 0.15, 0.3, 0.6)  # of the first iterations of a global search, the drawn one among them; then 1
AT_START_GLOBAL, AT_START, AT_START_GIVEN = 6, 4, 2  # iterations at the resolution of the start
GLOBAL_MOST = 8
JUMPING = 0.02  # local search begins when fewer particles than this jumped
GROWTH = 1.3  # the band grows by at most this factor in an iteration
CALM, DIVIDED = 0.02, 3  # such a share that moved, twice, and half sets get references of their own, for so long
STEADY = 1  # shells: where images are calm the band does not change by so few, which would stir them up again
CHANGED = 0.01  # share of the images that an iteration may still move between classes at the end
SHARES_MOVED = 0.005  # the same of a class's share of all images


@dataclass(frozen=True)
class ClassSchedule(Schedule):
    """Stages and limits of one classification. search: global, local or fixed. given: whether each class has a map of
    its own to start from, or is the only one. least: iterations before it may end. one_reference: whether both half
    sets of a class have one reference to the end, or each its own once images hardly move: before that the classes of
    one half set need not be those of the other.
    """

    given: bool = False
    least: int = 8
    one_reference: bool = True

    @staticmethod
    def of(schedule: Schedule, given: bool, least: int, one_reference: bool) -> ClassSchedule:
        """A classification within the limits of a refinement."""
        values = {f.name: getattr(schedule, f.name) for f in fields(Schedule)}
        return ClassSchedule(**values, given=given, least=least, one_reference=one_reference)

    def next(self, history: Sequence[Progressed], shift_sigma: float) -> Plan | None:
        """The plan of the next iteration, or None when the classification is over."""
        if history and history[-1].stage == "final":
            return None
        count, limit = len(history), self._band(history)
        last = count + 1 >= self.max_iterations or self.stands_still(history)
        insert = self.finest_insert if last else min(self.finest_insert, max(limit + 8, int(limit * 1.3)))
        search = self._search(history)
        tempered = search == "global" and not self.given and count < len(SHARPNESS)
        plan = Plan(
            "final" if last else search,
            Sampling("local", limit, modes=self.modes, symmetry=self.symmetry), insert, self.posterior,
            sharpness=SHARPNESS[count] if tempered else 1.0, draws_classes=not self.given and not history,
            apart=count + 1 < self._at_start,
            joined=self.one_reference or (not self.given and not self._divided(history)),
        )  # fmt: skip
        if search == "global":
            return replace(plan, sampling=self._global(limit, history, shift_sigma, not history))
        if search == "fixed":
            sampling = Sampling("fixed", limit, modes=1, symmetry=self.symmetry)
            return replace(plan, sampling=sampling, posterior="best")
        return plan

    def burnt_in(self, history: Sequence[Progressed]) -> bool:
        """Whether the centres of the particles are known, so that shifts are tried about them."""
        return len(history) >= 2

    def _search(self, history: Sequence[Progressed]) -> str:
        if self.search != "global":
            return self.search
        searched = [h for h in history if h.stage == "global"]
        if len(searched) < len(history):
            return "local"  # it began before
        settled = len(searched) >= self._at_start and searched[-1].jumped < JUMPING
        return "local" if settled or len(searched) >= GLOBAL_MOST else "global"

    @property
    def _at_start(self) -> int:
        return AT_START_GIVEN if self.given else AT_START_GLOBAL if self.search == "global" else AT_START

    def _band(self, history: Sequence[Progressed]) -> int:
        """The last shell that is scored."""
        start = self.shell(self.start)
        if len(history) < self._at_start:
            return start
        last = history[-1]
        agreed = last.agreed + margin(last.agreed)
        limit = max(start, min(self.finest, agreed, int(last.limit * GROWTH) + 1))
        return last.limit if last.changed < CALM and abs(limit - last.limit) <= STEADY else limit

    def _divided(self, history: Sequence[Progressed]) -> int:
        """How many iterations ago images began to move so little that half sets can have references of their own."""
        calm = [h.changed < CALM for h in history]
        first = (n for n in range(max(2, self.least), len(history) + 1) if all(calm[n - 2 : n]))
        return len(history) + 1 - next(first, len(history) + 1)

    def stands_still(self, history: Sequence[Progressed]) -> bool:
        """Whether two iterations moved hardly any image, and the band that they saw is as fine as it gets."""
        divided = self.one_reference or self.given or self._divided(history) >= DIVIDED
        if not divided or len(history) < self.least or self._band(history) > history[-1].limit * 1.1:
            return False
        return all(h.changed < CHANGED and h.shares_moved < SHARES_MOVED for h in history[-2:])
