"""Turns user data into batches and runs a model on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.outputs import output_tensor
from layerscope.live.user_code import Forward, preserve_randomness, translate_errors


def as_batches(data: Any) -> Any:
    """Return the data as batches. A single pair of tensors or a single mapping becomes a list with one batch."""
    pair = isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")
    return [data] if pair or isinstance(data, Mapping) else data


def iterate_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches.

    :raises Unreadable: the data loader raises an exception.
    """
    with translate_errors("the data"):
        yield from batches


def run_batch(model: Any, batch: Any, number: int, forward: Forward | None) -> tuple[Any, Any]:
    """Run the model on one batch and return (output, labels).

    :param number: index of the batch, for error messages.
    :param forward: user function (model, batch) → (output, labels); None calls the model on x of a pair (x, y).
    :raises UsageError: the batch is not a pair, and there is no ``forward``.
    :raises Unreadable: the model raises an exception.
    """
    if forward is None and not (isinstance(batch, tuple | list) and len(batch) == 2):
        found = f"batch {number} is a {type(batch).__name__}, not a pair (x, y)"
        raise UsageError(f"{found}; pass one batch as a tuple (x, y), several as a list of tuples, or give forward=")
    with translate_errors(f"the model on batch {number}"):
        output, labels = forward(model, batch) if forward is not None else (model(batch[0]), batch[1])
    return output_tensor(output), labels


def materialize_batches(model: Any, batches: Iterable[Any]) -> list[Any]:
    """Return all batches as a list, without advancing the random generators."""
    with preserve_randomness(model):
        return list(iterate_batches(batches))
