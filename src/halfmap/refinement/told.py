"""What a run says of its findings: each when it begins and when it ends, and all of them at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfmap.finding import Finding
from halfmap.runtime.log import RunLog
from halfmap.runtime.terminal import tell_findings


@dataclass(frozen=True)
class Spell:
    """A finding, in its latest words, and the iterations that it held in. stands: whether it holds in the last one."""

    finding: Finding
    iterations: list[int]
    stands: bool

    def when(self) -> str:
        """The iterations in words."""
        first, last = self.iterations[0], self.iterations[-1]
        if self.stands:
            return f"since iteration {first}"
        if first == last:
            return f"iteration {first}"
        if last - first == len(self.iterations) - 1:
            return f"iterations {first} to {last}"
        return f"{len(self.iterations)} iterations, last {last}"


def tell(before: Sequence[Finding], now: Sequence[Finding], log: RunLog) -> None:
    """Say what was not found before, and name what is found no longer."""
    known, still = {one.name for one in before}, {one.name for one in now}
    for one in now:
        if one.name not in known:
            tell_findings(one)
            (log.warning if one.level == "warning" else log.notice)(one.text)
    for name in dict.fromkeys(one.name for one in before if one.name not in still):
        log.notice(f"no longer so: {name}")


def findings_in(record: Mapping[str, Any]) -> list[Finding]:
    """The findings of an iteration's record. Records of version 0.1.0 hold warnings, which are bare sentences."""
    old = [Finding(str(text), str(text), "run") for text in _listed(record, "warnings")]
    return old + [Finding.from_record(one) for one in _listed(record, "findings") if isinstance(one, Mapping)]


def _listed(record: Mapping[str, Any], key: str) -> list[Any]:
    """A list in a record that may have been written by anyone; a single value is a list of one."""
    held = record.get(key)
    return held if isinstance(held, list) else [held] if isinstance(held, str) else []


def spells(records: Sequence[Mapping[str, Any]]) -> list[Spell]:
    """Every finding of a run once: those that stand first, then those that are over, each kind as they began."""
    words, seen = dict[str, Finding](), dict[str, list[int]]()
    for place, record in enumerate(records):
        for one in findings_in(record):
            words[one.name] = one
            numbers = seen.setdefault(one.name, [])
            written = record.get("iteration")
            number = written if isinstance(written, int) else place + 1
            numbers += [] if number in numbers else [number]
    last = {one.name for one in findings_in(records[-1])} if records else set()
    found = [Spell(words[name], seen[name], name in last) for name in seen]
    return sorted(found, key=lambda spell: not spell.stands)


def summed_up(records: Sequence[Mapping[str, Any]]) -> str:
    """The warnings of a finished run by name, in one line."""
    found = [spell for spell in spells(records) if spell.finding.level == "warning"]
    if not found:
        return "no warnings"
    standing = [f"{spell.finding.name} ({spell.when()})" for spell in found if spell.stands]
    over = [f"{spell.finding.name} ({spell.when()})" for spell in found if not spell.stands]
    said = [f"warnings that stand: {'; '.join(standing)}"] if standing else []
    said += [f"over by now: {'; '.join(over)}"] if over else []
    return ". ".join(said)
