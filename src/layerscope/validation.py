"""Check that the fields of a record have their declared types, for values from files and from users."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_NUMBER = 1e308  # larger numbers overflow in computations
MAX_INTEGER = 2**63

Record = typing.TypeVar("Record", bound="DataclassInstance")


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a value has the type that a field declares; supports the types used in saved records."""
    if hint is Any:
        return True
    if hint is float:  # accepts an int, as in Python's type system, but not a bool or NaN
        return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_INTEGER
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(matches_type(value, option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(matches_type(item, arguments[0]) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            matches_type(k, arguments[0]) and matches_type(v, arguments[1]) for k, v in value.items()
        )
    return isinstance(value, hint)


def check_types(record: Record, *, exempt: Collection[str] = ()) -> Record:
    """Return the record after checking that every field has its declared type.

    :param exempt: names of fields that are not checked.
    :raises TypeError: a field has another type.
    """
    hints = typing.get_type_hints(type(record))
    for f in dataclasses.fields(record):
        if f.name not in exempt and not matches_type(getattr(record, f.name), hints[f.name]):
            raise TypeError(f"{f.name} of a {type(record).__name__} cannot be {getattr(record, f.name)!r:.80}")
    return record
