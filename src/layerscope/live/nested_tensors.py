"""Finds and replaces tensors in nested tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def tensors_in(nested: Any) -> Iterator[Any]:
    """Yield all tensors in nested tuples, lists and mappings."""
    import torch

    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, tuple | list):
        for item in nested:
            yield from tensors_in(item)
    elif isinstance(nested, Mapping):
        yield from tensors_in(list(nested.values()))


def replace_tensors(nested: Any, replacements: Mapping[int, Any]) -> Any:
    """Return the same structure with some tensors replaced; ``replacements`` maps the ids of tensors to new values."""
    if id(nested) in replacements:
        return replacements[id(nested)]
    if isinstance(nested, tuple | list) and not hasattr(nested, "_fields"):
        return type(nested)(replace_tensors(item, replacements) for item in nested)
    if isinstance(nested, Mapping):
        return {key: replace_tensors(value, replacements) for key, value in nested.items()}
    return nested
