"""Tensors in nested tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def tensors_in(nested: Any) -> Iterator[Any]:
    """All tensors in nested tuples, lists and mappings."""
    import torch

    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, tuple | list):
        for each in nested:
            yield from tensors_in(each)
    elif isinstance(nested, Mapping):
        yield from tensors_in(list(nested.values()))


def replace_tensors(nested: Any, other: Mapping[int, Any]) -> Any:
    """The same with other tensors in the place of some."""
    if id(nested) in other:
        return other[id(nested)]
    if isinstance(nested, tuple | list) and not hasattr(nested, "_fields"):
        return type(nested)(replace_tensors(each, other) for each in nested)
    if isinstance(nested, Mapping):
        return {key: replace_tensors(value, other) for key, value in nested.items()}
    return nested
