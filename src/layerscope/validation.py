"""Do the values of a record have the types that its fields declare? What comes from files and users is asked."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST = 1e308  # numbers beyond cannot be computed with
WIDEST = 2**63

Record = typing.TypeVar("Record", bound="DataclassInstance")


def conforms(value: Any, hint: Any) -> bool:
    """Is a value of the type that a field declares? Knows the types of which records that are saved consist."""
    if hint is Any:
        return True
    if hint is float:  # an int will do, as in Python's own typing; a bool or NaN will not
        return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < MOST
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < WIDEST
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, option) for option in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(conforms(item, inner[0]) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            conforms(k, inner[0]) and conforms(v, inner[1]) for k, v in value.items()
        )
    return isinstance(value, hint)


def checked(record: Record, *, but: Collection[str] = ()) -> Record:
    """The same record, every field of its declared type.

    :raises TypeError: a field is not.
    """
    hints = typing.get_type_hints(type(record))
    for f in dataclasses.fields(record):
        if f.name not in but and not conforms(getattr(record, f.name), hints[f.name]):
            raise TypeError(f"{f.name} of a {type(record).__name__} cannot be {getattr(record, f.name)!r:.80}")
    return record
