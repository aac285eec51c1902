"""Split a user's data into single examples, with or without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.batches import as_batches, iterate_batches
from layerscope.live.outputs import run_model
from layerscope.live.user_code import Forward, translate_errors


@dataclass(frozen=True)
class Example:
    """One example as a batch of one: a tensor, or a mapping of tensors that the model takes by name."""

    inputs: Any
    labels: Any = None


def examples_of(data: Any, limit: int | None = None) -> list[Example]:
    """Return the examples of batches (x, y), of inputs alone, or of mappings such as those of a tokenizer.

    Padding on the right is cut off where a mapping has an attention mask.

    :param limit: take no more than these.
    :raises UsageError: there is no example, or a batch has another form.
    """
    batches = [data] if hasattr(data, "shape") else as_batches(data)
    found = list(islice(_split(batches), limit))
    if not found:
        raise UsageError("the data have no example; pass a pair (x, y), inputs alone, or a list of such batches")
    return found


def run_example(model: Any, example: Example, forward: Forward | None) -> Any:
    """Return the tensor of predictions of one example.

    :raises Unreadable: the model raises an exception.
    """
    with translate_errors("the model on one example"):
        if forward is None and isinstance(example.inputs, Mapping):
            return run_model(model, example.inputs, lambda net, x: net(**x))
        return run_model(model, example.inputs, forward)


def _split(batches: Any) -> Iterator[Example]:
    for number, batch in enumerate(iterate_batches(batches)):
        if isinstance(batch, Example):
            yield batch
        elif isinstance(batch, Mapping):
            yield from _split_mapping(batch, number)
        elif hasattr(batch, "shape"):
            yield from (Example(batch[i : i + 1]) for i in range(len(batch)))
        elif isinstance(batch, tuple | list) and len(batch) == 2 and hasattr(batch[0], "shape"):
            inputs, labels = batch
            yield from (Example(inputs[i : i + 1], labels[i : i + 1]) for i in range(len(inputs)))
        else:
            raise UsageError(
                f"batch {number} is a {type(batch).__name__}; pass pairs (x, y), tensors, or mappings of tensors"
            )


def _split_mapping(batch: Mapping[Any, Any], number: int) -> Iterator[Example]:
    tensors = {str(key): value for key, value in batch.items() if hasattr(value, "shape")}
    if not tensors:
        raise UsageError(f"batch {number} is a mapping without tensors; pass what the tokenizer returns as tensors")
    labels = tensors.pop("labels", None)
    mask = tensors.get("attention_mask")
    for i in range(len(next(iter(tensors.values())))):
        stop = int(mask[i].sum()) if mask is not None and bool(mask[i, 0]) else None
        inputs = {
            key: value[i : i + 1, :stop] if value.dim() > 1 else value[i : i + 1] for key, value in tensors.items()
        }
        yield Example(inputs, None if labels is None else labels[i : i + 1])
