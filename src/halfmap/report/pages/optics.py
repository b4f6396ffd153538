"""What a refinement fitted to its optics, as rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OpticsRow:
    """One kind of value. per: what has one value; changed: how many of these, in all fits; first, last: how far values
    moved in the first and in the last fit, each component with its unit; verdict: of the last fit."""

    name: str
    per: str
    changed: str
    first: list[str]
    last: list[str]
    verdict: str


def optics_rows(records: Sequence[Mapping[str, Any]]) -> list[OpticsRow]:
    """A row for each kind of value that iterations fitted; none where optics stayed as they were given."""
    fits = [record["optics"] for record in records if isinstance(record.get("optics"), list)]
    if not fits:
        return []
    rows = []
    for last in fits[-1]:
        own = [one for fit in fits for one in fit if one["name"] == last["name"]]
        most = max(one["applied"] for one in own)
        changed = f"{most:,} of {last['number']:,}"
        rows.append(OpticsRow(last["name"], last["per"], changed, _moved(own[0]), _moved(last), last["verdict"]))
    return rows


def _moved(one: Mapping[str, Any]) -> list[str]:
    """Root mean square of the changes, by component."""
    several = len(one["components"]) > 1
    return [f"{name + ' ' if several else ''}{value:.3g} {unit}".rstrip()
            for name, value, unit in zip(one["components"], one["change_rms"], one["units"], strict=True)]
