"""Which entries of a network's tensors are numbered by the same hidden units.

Every output of a linear map is a unit with an id of its own. What a network does with them says which must change
places together: heads of an attention, summands of a residual stream. A group is a table of ids, a row per unit; a
permutation of its rows, on every place that is numbered by them, leaves the function as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Ints

NONE = -1  # the label of what no unit numbers


@dataclass(frozen=True, eq=False)
class Place:
    """Entries of one axis of one tensor: a row per unit, as many of them for each."""

    tensor: str
    axis: int
    index: Ints  # (units, entries of each)


@dataclass
class Group:
    """Hidden units that have one order."""

    units: int
    places: list[Place] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)  # of weights whose output they are
    fixed: str = ""  # why they cannot be permuted
    normed: list[Place] = field(default_factory=list)  # of these, those whose output goes straight into a norm
    homogeneous: bool = True  # is all that they go through unchanged by scale, x → c·x for c > 0?


class Conflict(Exception):
    """No permutation of these units can leave the function as it is."""


class Units:
    """All units of a network, and what binds them."""

    def __init__(self) -> None:
        self._tables: list[Ints] = []  # (units, ids of each) of each group; empty where it was replaced
        self._fixed: list[str] = []
        self._group, self._row = np.zeros(0, np.int64), np.zeros(0, np.int64)  # of each id
        self._scaled = np.zeros(0, bool)  # does each go through what minds its scale?
        self._places: dict[tuple[str, int], Ints] = {}  # (tensor, axis) → id of each entry
        self._made: dict[str, int] = {}  # weight → axis of its outputs
        self._normed: set[str] = set()  # weights whose output goes straight into a norm
        self._locked: dict[str, str] = {}  # tensor → what else reads it

    def made(self, weight: str, axis: int, size: int) -> Ints:
        """Ids of the outputs of a weight; the same ones where it is used again."""
        self._made.setdefault(weight, axis)
        return self.numbered(weight, axis, size)

    def numbered(self, tensor: str, axis: int, size: int) -> Ints:
        """Ids along an axis of a tensor; new ones where it has none."""
        if (tensor, axis) in self._places:
            return self._places[tensor, axis]
        start = len(self._group)
        ids = np.arange(start, start + size)
        self._group = np.concatenate([self._group, np.full(size, len(self._tables))])
        self._row = np.concatenate([self._row, np.arange(size)])
        self._scaled = np.concatenate([self._scaled, np.zeros(size, bool)])
        self._tables.append(ids[:, None])
        self._fixed.append("")
        self._places[tensor, axis] = ids
        return ids

    def place(self, tensor: str, axis: int, labels: Ints) -> None:
        """An axis is numbered by these units; one that is numbered already, by both."""
        before = self._places.get((tensor, axis))
        codes = self.same(labels)
        if len(np.unique(codes)) == len(codes) and (codes >= 0).all():
            self.tie([labels[:, None]])  # it may read some of the units only
        if before is None:
            self._places[tensor, axis] = labels.copy()
        elif not np.array_equal(self.same(before), self.same(labels)):
            self.tie_or_fix([before[:, None], labels[:, None]], f"{tensor} is used elsewhere too")

    def fix(self, labels: Ints, why: str) -> None:
        """These are never permuted."""
        for group in np.unique(self._group[labels[labels >= 0]]):
            self._fixed[group] = self._fixed[group] or why

    def fix_sized(self, sizes: Sequence[int], why: str) -> None:
        """Groups that number as many entries as one of these are never permuted: what has them may be read by them."""
        for number, table in enumerate(self._tables):
            if len(table) and any(size and table.size == size for size in sizes):
                self._fixed[number] = self._fixed[number] or why
        for labels in self._places.values():
            if len(labels) in sizes:
                self.fix(labels, why)

    def lock(self, tensor: str, why: str) -> None:
        """Something else reads this tensor: what numbers it is never permuted."""
        self._locked.setdefault(tensor, f"{tensor} is read by {why} too")

    def scale(self, labels: Ints) -> None:
        """These go through something that minds their scale."""
        self._scaled[labels[labels >= 0]] = True

    def normed(self, weight: str) -> None:
        """Its output goes straight into a batch norm."""
        self._normed.add(weight)

    def same(self, labels: Ints) -> Ints:
        """A number per unit: equal where two labels move together; −1 of none."""
        if not len(self._row):
            return np.full(labels.shape, NONE)
        code = self._group[labels] * (int(self._row.max()) + 1) + self._row[labels]
        return np.where(labels >= 0, code, NONE)

    def kinds(self, rows: Ints) -> Ints:
        """Which groups are in each row of labels, as one number."""
        groups = np.sort(np.where(rows >= 0, self._group[rows], NONE), 1)
        groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = NONE - 1
        _, kind = np.unique(np.sort(groups, 1), axis=0, return_inverse=True)
        return np.asarray(kind).reshape(-1)

    def tie_or_fix(self, parts: Sequence[Ints], why: str) -> None:
        """Tie, or fix what cannot be tied."""
        try:
            self.tie(parts)
        except Conflict:
            for part in parts:
                self.fix(part, why)

    def tie(self, parts: Sequence[Ints]) -> None:
        """From now on rows of these tables (u, …) move as one: row i of all parts is one unit. Rows in which other
        groups meet than in another row never change places with it.

        :raises Conflict: a unit is in two rows, rows hold unequal numbers of them, or something that has none.
        """
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
        some = rows >= 0
        if (some.any(1) != some.all(1)).any():
            raise Conflict
        kinds = self.kinds(rows)
        for kind in np.unique(kinds):
            self._tie(rows[kinds == kind])

    def _tie(self, rows: Ints) -> None:
        found: list[list[Ints]] = [[] for _ in rows]
        taken: dict[int, Ints] = {}
        if (rows < 0).any():
            return
        for group in np.unique(self._group[rows]):
            table = self._tables[group]
            own = np.where(self._group[rows] == group, self._row[rows], NONE)
            of_row = [_in_order(each[each >= 0]) for each in own]
            every = np.concatenate(of_row)
            if len({len(each) for each in of_row}) > 1 or len(np.unique(every)) < len(every):
                raise Conflict
            for into, each in zip(found, of_row, strict=True):
                into.append(table[each].reshape(-1))
            taken[int(group)] = every
        if not taken:
            return
        table = np.stack([np.concatenate(each) for each in found])
        if len(taken) == 1 and table.shape == self._tables[next(iter(taken))].shape:
            return  # as it was
        why = next((self._fixed[group] for group in taken if self._fixed[group]), "")
        for group, every in taken.items():
            rest = np.setdiff1d(np.arange(len(self._tables[group])), every)
            if len(rest):
                self._add(self._tables[group][rest], self._fixed[group])
            self._tables[group] = np.zeros((0, 0), np.int64)
        self._add(table, why)

    def _add(self, table: Ints, why: str) -> None:
        self._group[table] = len(self._tables)
        self._row[table] = np.arange(len(table))[:, None]
        self._tables.append(table)
        self._fixed.append(why)

    def groups(self) -> list[Group]:
        """All of them, in the order in which data meet them."""
        order = sorted((int(table.min()), number) for number, table in enumerate(self._tables) if len(table))
        return [self._group_of(number) for _, number in order]

    def _group_of(self, number: int) -> Group:
        table = self._tables[number]
        found = Group(len(table), fixed=self._fixed[number], homogeneous=not self._scaled[table].any())
        for (tensor, axis), labels in self._places.items():
            inside = np.flatnonzero((labels >= 0) & (self._group[labels] == number))
            if not len(inside):
                continue
            rows = self._row[labels[inside]]
            counts = np.bincount(rows, minlength=len(table))
            if len(set(counts)) > 1:
                found.fixed = found.fixed or f"{tensor} has some of these units only"
                continue
            index = inside[np.argsort(rows, kind="stable")].reshape(len(table), -1)
            found.places.append(Place(tensor, axis, index))
            found.fixed = found.fixed or self._locked.get(tensor, "")
            if self._made.get(tensor) == axis:
                found.outputs.append(found.places[-1])
                found.normed += [found.places[-1]] if tensor in self._normed else []
        return found


def _in_order(values: Ints) -> Ints:
    """Each value once, as they appear."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
