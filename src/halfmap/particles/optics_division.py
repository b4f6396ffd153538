"""Optics groups divided by what a file says of its images: the beam shift they were taken at, names, any column.

Beam tilt and other aberrations depend on the beam shift, so that images taken at different shifts need optics groups of
their own. Groups are divided and never merged, and the new ones have the values of the old.

EPU names its movies FoilHole_HOLE_Data_AREA_TEMPLATE_DATE_TIME. The two numbers after Data_ are those of the place
within the hole that the template defines: they return in every hole, and each has a beam shift of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.particles.clusters import Clusters, clusters_of
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import Integers, ParticleTable, different, taken

EPU = r"FoilHole_\d+_Data_(\d+_\d+)_\d{8}_\d+"
NAMES = ("rlnMicrographName", "rlnImageName")  # where a name is looked for, the first that there is
_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class DivisionRule:
    """What divides: the text that a pattern finds in a column, or the values of one or two columns.

    said: as the user wrote it. columns: none where names are meant (`NAMES`).
    """

    said: str
    columns: tuple[str, ...]
    pattern: re.Pattern[str] | None


def division_rule(said: str) -> DivisionRule:
    """The rule that --group-by names: beam-shift, name:PATTERN, COLUMN:PATTERN, COLUMN or COLUMN,COLUMN.

    Raises InputError where it is none of these, or the pattern is no regular expression.
    """
    if said == "beam-shift":
        return DivisionRule(said, (), re.compile(EPU))
    columns, colon, text = said.partition(":")
    if colon:
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise InputError(f"--group-by {said}: {text} is not a regular expression ({error}); correct it") from None
        return DivisionRule(said, () if columns == "name" else (columns.strip().removeprefix("_"),), pattern)
    names = tuple(name.strip().removeprefix("_") for name in columns.split(","))
    if not all(names) or len(names) > 2:
        raise InputError(f"--group-by {said}: give beam-shift, name:PATTERN, one column, or two columns of positions")
    return DivisionRule(said, names, None)


@dataclass(frozen=True)
class Division:
    """A table whose optics groups were divided.

    key [b]: which part each particle belongs to, of `keys`; parent [g]: the old optics group of each new one;
    places [b, d]: the positions that were grouped (None where text decided), of the columns `labels`; gap: how clearly
    (`clusters.Clusters`).
    """

    table: ParticleTable
    keys: tuple[str, ...]
    key: Integers
    parent: Integers
    labels: tuple[str, ...] = ()
    places: NDArray[np.float64] | None = None
    gap: float | None = None


def divided(table: ParticleTable, rule: DivisionRule, count: int | None = None) -> Division:
    """Divide the optics groups of a table by a rule; count: number of groups that positions fall into, if it is given.

    New groups are numbered from 1, by old group and then by what they are called: the old name and what divides it.
    Raises InputError where a column is not there, a row cannot be told, the groups are divided like this already, or
    they would have one micrograph each.
    """
    labels = rule.columns or (_named(table),)
    for label in labels:
        if label not in table.columns:
            raise InputError(f"{table.source}: has no column {label}, which --group-by {rule.said} needs; its columns "
                             f"are {', '.join(sorted(table.columns))}")
    places, found = None, None
    if rule.pattern is not None:
        key, keys = _by_text(table, labels[0], rule)
    else:
        numbers = np.stack([numbers_of(table.columns[label]) for label in labels], axis=1)
        if len(labels) == 1 and np.isnan(numbers).all():
            key, keys = _by_text(table, labels[0], rule)
        else:
            places, found = numbers, _by_place(table, labels, numbers, rule, count)
            key, digits = found.number, len(str(len(found.centres)))
            keys = tuple(f"position{number:0{digits}d}" for number in range(1, len(found.centres) + 1))
    if count is not None and found is None:
        raise InputError(f"--groups {count}: is for columns of numbers, and --group-by {rule.said} goes by text; leave "
                         "it out")
    number = table.optics_index * len(keys) + key
    there, index = np.unique(number, return_inverse=True)
    parent = there // len(keys)
    _check_sizes(table, rule, len(there), len(np.unique(table.optics_index)))
    made = [replace(table.optics[group], name=_joined(table.optics[group].name, keys[part]), number=place)
            for place, (group, part) in enumerate(zip(parent, there % len(keys), strict=True), 1)]
    columns = {label: taken(column, parent) for label, column in table.optics_columns.items()}
    new = replace(table, optics=tuple(made), optics_index=index.reshape(-1).astype(np.int64), optics_columns=columns)
    return Division(new, keys, key, parent, labels, places, found.gap if found else None)


def _named(table: ParticleTable) -> str:
    return next((label for label in NAMES if label in table.columns), NAMES[0])


def _by_text(table: ParticleTable, label: str, rule: DivisionRule) -> tuple[Integers, tuple[str, ...]]:
    """Which of the sorted texts each row has, and these. A pattern with parentheses gives what they hold."""
    number, words = different(table.columns[label])
    texts = [_text_in(word, rule.pattern) for word in words]
    absent = np.array([text is None for text in texts])[number]
    if absent.any():
        row = int(np.argmax(absent))
        what = "an EPU name, FoilHole_.._Data_.._.._DATE_TIME" if rule.said == "beam-shift" else rule.said
        many = "none of its rows does" if absent.all() else f"{int(absent.sum()):,} of {len(table):,} rows do not"
        raise InputError(f"{table.name(row)}: {label} '{words[number[row]][:200]}' does not match {what} ({many}); "
                         "give another --group-by name:PATTERN, or a column")
    keys = tuple(sorted({text for text in texts if text is not None}, key=_natural))
    place = {text: i for i, text in enumerate(keys)}
    return np.array([place[str(text)] for text in texts], np.int64)[number], keys


def _text_in(word: str, pattern: re.Pattern[str] | None) -> str | None:
    """What a pattern finds in a word: its parentheses joined by _, or all of it where there are none; None: nothing."""
    if pattern is None:
        return word
    match = pattern.search(word)
    if match is None:
        return None
    return "_".join(part or "" for part in match.groups()) if pattern.groups else match[0]


def _natural(text: str) -> list[str]:
    """Sorts numbers within text by their value."""
    return [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _by_place(
    table: ParticleTable, labels: tuple[str, ...], numbers: NDArray[np.float64], rule: DivisionRule, count: int | None
) -> Clusters:
    """The groups that positions [b, d] fall into. Images of one micrograph count once, where they are at one place."""
    wrong = ~np.isfinite(numbers).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        held = ", ".join(f"{label} {table.columns[label][row]}" for label in labels)
        raise InputError(f"{table.name(row)}: {held} is not a number, and other rows have numbers; correct it, or "
                         "group by its text with --group-by COLUMN:.+")
    shots, place = np.unique(np.column_stack([table.micrograph, numbers]), axis=0, return_inverse=True)
    try:
        found = clusters_of(shots[:, 1:], count)
    except ValueError as error:
        remedy = "" if count is not None else "; say how many there are with --groups"
        raise InputError(f"{table.source}: the positions {', '.join(labels)} of {len(shots):,} micrographs cannot be "
                         f"grouped: {error}{remedy}") from None
    return replace(found, number=found.number[place.reshape(-1)])


def _check_sizes(table: ParticleTable, rule: DivisionRule, new: int, old: int) -> None:
    """Raise InputError where nothing is divided, or each group would have a micrograph or an image of its own."""
    if new == old:
        raise InputError(f"{table.source}: --group-by {rule.said} divides nothing: the {old} optics group"
                         f"{'s' * (old != 1)} of the file are divided like this already; give another column or "
                         "pattern")
    counts = table.micrographs
    if new > len(table) / 2:
        raise InputError(f"{table.source}: --group-by {rule.said} makes {new:,} groups of {len(table):,} images, many "
                         "with one image; give a column or pattern that images have in common")
    if counts is not None and 2 < len(counts) <= new:
        raise InputError(f"{table.source}: --group-by {rule.said} makes {new:,} groups of {len(counts):,} micrographs; "
                         "give a column or pattern that micrographs have in common")


def _joined(name: str, key: str) -> str:
    """The name of a new optics group, without spaces and signs that a STAR file would quote."""
    return f"{name}_{_UNSAFE.sub('_', key).strip('_') or 'none'}"

