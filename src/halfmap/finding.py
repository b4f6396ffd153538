"""What a user should know about data or a result: made once, where it is seen, and shown everywhere in the same words.

Terminal, log, records, report and `halfmap inspect` take the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    name: what it is in a few words, the same for as long as it lasts, whatever figures the text holds; text: a sentence
    without capital and full stop, which names the cause and what helps; about: the part of the results concerned;
    level: a warning, or a note on what holds for many sound results and should be known.
    """

    name: str
    text: str
    about: str
    level: Level = "warning"

    @staticmethod
    def from_record(values: Mapping[str, Any]) -> Finding:
        """A finding as `dataclasses.asdict` wrote it, read back."""
        level: Level = "note" if values.get("level") == "note" else "warning"
        name, text, about = (str(values.get(key, "")) for key in ("name", "text", "about"))
        return Finding(name, text, about, level)
