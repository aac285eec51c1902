"""Hidden units of a network, and the tensor entries that belong to each of them.

Every output of a linear map gets its own id and starts as a separate unit. Tracing the network shows which ids must be
permuted together as one unit: the outputs of an attention head, or the summands of a residual stream. A group is a
table of ids with one row per unit. Permuting its rows in all places of the group leaves the function unchanged.
``permutation_groups`` defines the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Ints

NO_UNIT = -1  # label of entries that belong to no unit


@dataclass(frozen=True, eq=False)
class Place:
    """The entries along one axis of one tensor that belong to a group, the same number for each unit."""

    tensor: str
    axis: int
    index: Ints  # (units, entries per unit)


@dataclass
class Group:
    """Hidden units that share one order and are permuted together."""

    units: int
    places: list[Place] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)  # places in the weights that produce these units
    fixed: str = ""  # reason why the units cannot be permuted; empty if they can
    before_norm: list[Place] = field(default_factory=list)  # outputs that feed directly into a batch norm
    homogeneous: bool = True  # whether all functions applied to the units satisfy f(c·x) = c·f(x) for c > 0


class Conflict(Exception):
    """Raised if no permutation of these units leaves the function unchanged."""


class Units:
    """All units of a network, and the groups in which they are permuted."""

    def __init__(self) -> None:
        self._tables: list[Ints] = []  # for each group (units, ids per unit); empty once the group is replaced
        self._fix_reasons: list[str] = []
        self._group_by_id, self._row_by_id = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._is_scale_sensitive = np.zeros(0, bool)  # by id: whether a function that is not homogeneous reads it
        self._ids_by_axis: dict[tuple[str, int], Ints] = {}  # (tensor, axis) → id of each entry
        self._output_axes: dict[str, int] = {}  # weight → axis of its outputs
        self._weights_before_norm: set[str] = set()  # weights with outputs that feed directly into a batch norm
        self._lock_reasons: dict[str, str] = {}  # tensor → which other function reads it

    def number_outputs(self, weight: str, axis: int, size: int) -> Ints:
        """Return the ids of a weight's outputs; a weight that is used again keeps its ids."""
        self._output_axes.setdefault(weight, axis)
        return self.number_axis(weight, axis, size)

    def number_axis(self, tensor: str, axis: int, size: int) -> Ints:
        """Return the ids along an axis of a tensor, creating them on first use."""
        if (tensor, axis) in self._ids_by_axis:
            return self._ids_by_axis[tensor, axis]
        start = len(self._group_by_id)
        ids = np.arange(start, start + size)
        self._group_by_id = np.concatenate([self._group_by_id, np.full(size, len(self._tables))])
        self._row_by_id = np.concatenate([self._row_by_id, np.arange(size)])
        self._is_scale_sensitive = np.concatenate([self._is_scale_sensitive, np.zeros(size, bool)])
        self._tables.append(ids[:, None])
        self._fix_reasons.append("")
        self._ids_by_axis[tensor, axis] = ids
        return ids

    def place(self, tensor: str, axis: int, labels: Ints) -> None:
        """Record that an axis belongs to these units; if it has units already, tie both sets together."""
        before = self._ids_by_axis.get((tensor, axis))
        codes = self.unit_codes(labels)
        if len(np.unique(codes)) == len(codes) and (codes >= 0).all():
            self.tie([labels[:, None]])  # the axis may cover only some of the units
        if before is None:
            self._ids_by_axis[tensor, axis] = labels.copy()
        elif not np.array_equal(self.unit_codes(before), self.unit_codes(labels)):
            self.tie_or_fix([before[:, None], labels[:, None]], f"{tensor} is also used elsewhere")

    def fix(self, labels: Ints, why: str) -> None:
        """Exclude the groups of these labels from permutation, with the reason."""
        for group in np.unique(self._group_by_id[labels[labels >= 0]]):
            self._fix_reasons[group] = self._fix_reasons[group] or why

    def fix_matching_sizes(self, sizes: Sequence[int], why: str) -> None:
        """Exclude all groups with one of these sizes from permutation, as an untraced parameter may index them."""
        for number, table in enumerate(self._tables):
            if len(table) and any(size and table.size == size for size in sizes):
                self._fix_reasons[number] = self._fix_reasons[number] or why
        for labels in self._ids_by_axis.values():
            if len(labels) in sizes:
                self.fix(labels, why)

    def lock_tensor(self, tensor: str, why: str) -> None:
        """Exclude the units of this tensor from permutation because another function reads it."""
        self._lock_reasons.setdefault(tensor, f"{tensor} is also read by {why}")

    def mark_scale_sensitive(self, labels: Ints) -> None:
        """Record that a function that is not homogeneous reads these units."""
        self._is_scale_sensitive[labels[labels >= 0]] = True

    def mark_before_norm(self, weight: str) -> None:
        """Record that the output of this weight feeds directly into a batch norm."""
        self._weights_before_norm.add(weight)

    def unit_codes(self, labels: Ints) -> Ints:
        """Return one number per unit; labels that are permuted together share it, and NO_UNIT stays −1."""
        if not len(self._row_by_id):
            return np.full(labels.shape, NO_UNIT)
        code = self._group_by_id[labels] * (int(self._row_by_id.max()) + 1) + self._row_by_id[labels]
        return np.where(labels >= 0, code, NO_UNIT)

    def row_kinds(self, rows: Ints) -> Ints:
        """Return one number for each row of labels that identifies the set of groups in it."""
        groups = np.sort(np.where(rows >= 0, self._group_by_id[rows], NO_UNIT), 1)
        groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = NO_UNIT - 1
        _, kind = np.unique(np.sort(groups, 1), axis=0, return_inverse=True)
        return np.asarray(kind).reshape(-1)

    def table_along(self, labels: Ints, shape: Sequence[int], axis: int) -> Ints | None:
        """Return the table (units, ids per unit) along an axis, merging equal neighbors; None if a unit is split."""
        full = np.broadcast_to(labels, (*labels.shape[:axis], shape[axis], *labels.shape[axis + 1 :]))
        rows = np.moveaxis(full, axis, 0).reshape(shape[axis], -1)
        codes = self.unit_codes(rows)
        is_new = np.concatenate([[True], (codes[1:] != codes[:-1]).any(1)])
        rows, codes = rows[is_new], codes[is_new]
        run_lengths = np.diff(np.flatnonzero(np.concatenate([is_new, [True]])))
        if shape[axis] % len(rows) or len(set(run_lengths)) > 1:
            return None
        unique = np.concatenate([np.unique(row[row >= 0]) for row in codes])
        return rows if len(np.unique(unique)) == len(unique) else None

    def tie_or_fix(self, parts: Sequence[Ints], why: str) -> None:
        """Tie rows together; if that is impossible, exclude their groups from permutation."""
        try:
            self.tie(parts)
        except Conflict:
            for part in parts:
                self.fix(part, why)

    def tie(self, parts: Sequence[Ints]) -> None:
        """Merge row i of all tables (u, …) into one unit. Only rows with the same set of groups can be exchanged.

        :raises Conflict: if a unit is in two rows, if rows have different numbers of units, or if an entry has none.
        """
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
        has_unit = rows >= 0
        if (has_unit.any(1) != has_unit.all(1)).any():
            raise Conflict
        kinds = self.row_kinds(rows)
        for kind in np.unique(kinds):
            self._tie_rows(rows[kinds == kind])

    def _tie_rows(self, rows: Ints) -> None:
        """Replace the groups in these rows by one group with one unit per row; their other units form new groups."""
        parts_by_row: list[list[Ints]] = [[] for _ in rows]
        tied_rows: dict[int, Ints] = {}  # group → the rows of its table that are tied
        if (rows < 0).any():
            return
        for group in np.unique(self._group_by_id[rows]):
            table = self._tables[group]
            group_rows = np.where(self._group_by_id[rows] == group, self._row_by_id[rows], NO_UNIT)
            unique_rows = [_unique_in_order(row[row >= 0]) for row in group_rows]
            all_rows = np.concatenate(unique_rows)
            if len({len(row) for row in unique_rows}) > 1 or len(np.unique(all_rows)) < len(all_rows):
                raise Conflict
            for parts, row in zip(parts_by_row, unique_rows, strict=True):
                parts.append(table[row].reshape(-1))
            tied_rows[int(group)] = all_rows
        if not tied_rows:
            return
        table = np.stack([np.concatenate(parts) for parts in parts_by_row])
        if len(tied_rows) == 1 and table.shape == self._tables[next(iter(tied_rows))].shape:
            return  # already one group
        why = next((self._fix_reasons[group] for group in tied_rows if self._fix_reasons[group]), "")
        for group, all_rows in tied_rows.items():
            untied = np.setdiff1d(np.arange(len(self._tables[group])), all_rows)
            if len(untied):
                self._add_group(self._tables[group][untied], self._fix_reasons[group])
            self._tables[group] = np.zeros((0, 0), np.int64)
        self._add_group(table, why)

    def _add_group(self, table: Ints, why: str) -> None:
        self._group_by_id[table] = len(self._tables)
        self._row_by_id[table] = np.arange(len(table))[:, None]
        self._tables.append(table)
        self._fix_reasons.append(why)

    def groups(self) -> list[Group]:
        """Return all groups, in the order in which the data reach them."""
        order = sorted((int(table.min()), number) for number, table in enumerate(self._tables) if len(table))
        return [self._build_group(number) for _, number in order]

    def _build_group(self, number: int) -> Group:
        table = self._tables[number]
        group = Group(
            len(table), fixed=self._fix_reasons[number], homogeneous=not self._is_scale_sensitive[table].any()
        )
        for (tensor, axis), labels in self._ids_by_axis.items():
            entries = np.flatnonzero((labels >= 0) & (self._group_by_id[labels] == number))
            if not len(entries):
                continue
            rows = self._row_by_id[labels[entries]]
            counts = np.bincount(rows, minlength=len(table))
            if len(set(counts)) > 1:
                group.fixed = group.fixed or f"{tensor} has only some of these units"
                continue
            index = entries[np.argsort(rows, kind="stable")].reshape(len(table), -1)
            place = Place(tensor, axis, index)
            group.places.append(place)
            group.fixed = group.fixed or self._lock_reasons.get(tensor, "")
            if self._output_axes.get(tensor) == axis:
                group.outputs.append(place)
                group.before_norm += [place] if tensor in self._weights_before_norm else []
        return group


def _unique_in_order(values: Ints) -> Ints:
    """Return the distinct values in order of first appearance."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]


def repeat_per_entry(table: Ints, size: int) -> Ints:
    """Repeat one id of each unit to cover an axis of this size."""
    return np.repeat(table.max(1), size // len(table))


def labels_on_axis(ids: Ints, dims: int, axis: int) -> Ints:
    """Reshape ids so that they lie along one axis and broadcast over the others."""
    shape = [1] * dims
    shape[axis] = len(ids)
    return ids.reshape(shape)


def collapse_constant_axes(labels: Ints) -> Ints:
    """Reduce each axis along which the labels are constant to size 1."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis)
        if (labels == first).all():
            labels = first
    return labels
