"""The data that users bring, as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.user_code import Forward, preserve_randomness, translate_errors


def as_batches(data: Any) -> Any:
    """Batches of what a user calls data: of one pair of tensors, or of one mapping, that alone."""
    pair = isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")
    return [data] if pair or isinstance(data, Mapping) else data


def iterate_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches.

    :raises Unreadable: the loader raises.
    """
    with translate_errors("the data"):
        yield from batches


def run_batch(model: Any, batch: Any, number: int, forward: Forward | None) -> tuple[Any, Any]:
    """(output, labels) of one batch.

    :raises UsageError: a batch that is no pair.
    :raises Unreadable: the model raises.
    """
    if forward is None and not (isinstance(batch, tuple | list) and len(batch) == 2):
        what = f"batch {number} is a {type(batch).__name__}, not a pair (x, y)"
        raise UsageError(f"{what}: one batch is a tuple (x, y), several a list of them; or give forward=")
    with translate_errors(f"the model on batch {number}"):
        output, labels = forward(model, batch) if forward is not None else (model(batch[0]), batch[1])
    return output, labels


def materialize_batches(model: Any, batches: Iterable[Any]) -> list[Any]:
    """All batches, drawn without moving the random generators."""
    with preserve_randomness(model):
        return list(iterate_batches(batches))
