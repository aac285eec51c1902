"""Data of an evaluator: examples, labels and calibration inputs, with the loss computed on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from operator import index
from typing import Any, SupportsIndex

import numpy as np

from layerscope.errors import UsageError
from layerscope.lenses.landscape.evaluation.value import Value
from layerscope.live.losses import Loss
from layerscope.live.user_code import translate_errors

CALIBRATION_EXAMPLES = 512  # evaluation examples that recompute statistics if no calibration inputs are given


class EvaluationData:
    """Inputs x, labels y, calibration inputs and the loss, identical for every evaluated point."""

    def __init__(self, data: Any, loss: Loss, device: Any, examples: int | None) -> None:
        """Load the data to the device.

        :param data: (x, y), or an iterable of such batches, which are concatenated.
        :param loss: the loss function.
        :param device: torch device for the data.
        :param examples: number of examples to draw, stratified by class; all by default.
        :raises UsageError: if there are no examples or no pairs, or fewer examples than requested.
        """
        self.loss, self.device = loss, device
        self.x, self.y = concatenate_batches(data, device)
        if examples is not None:
            self.x, self.y = draw_examples(self.x, self.y, examples)
        self._label_mask = loss.label_mask(self.y)
        self._checked_shape: Any = None  # output shape that is known to fit the labels
        self.batch = len(self.x)  # examples per forward pass

    def convert_inputs(self, data: Any, dtypes: set[str]) -> None:
        """Convert inputs from NumPy arrays, which are float64 by default, to the dtype of the parameters."""
        import torch

        x = data[0] if isinstance(data, tuple) and data else None
        from_numpy = not isinstance(x, torch.Tensor) and hasattr(x, "__array__")
        if from_numpy and self.x.is_floating_point() and dtypes:
            self.x = self.x.to(getattr(torch, next(iter(dtypes))))

    def set_calibration(self, inputs: Any) -> None:
        """Set the inputs for recomputing statistics; None uses the first evaluation examples.

        :raises UsageError: if there are no inputs.
        """
        import torch

        self.calibrates_on_itself = inputs is None
        if inputs is None:
            self.calibration = self.x[:CALIBRATION_EXAMPLES]
        else:
            self.calibration = torch.as_tensor(inputs[0] if isinstance(inputs, tuple) else inputs).to(self.device)
        if not len(self.calibration):
            raise UsageError("calibrate= is empty: pass a batch of training inputs, or None to use the evaluation data")

    def set_memory_format(self, channels_last: bool) -> None:
        """Set the memory layout of all inputs; batches are slices of them."""
        import torch

        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.x = self.x.contiguous(memory_format=layout)
        if self.calibrates_on_itself:
            self.calibration = self.x[:CALIBRATION_EXAMPLES]
        elif self.calibration.dim() == self.x.dim():
            self.calibration = self.calibration.contiguous(memory_format=layout)

    @property
    def first_batch(self) -> Any:
        """Inputs of the first batch."""
        return self.x[: self.batch]

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over (inputs, labels) of each batch."""
        return zip(self.x.split(self.batch), self.y.split(self.batch), strict=True)

    def labeled_count(self, losses: int) -> int:
        """Return the number of losses without those at ignored label positions."""
        return losses if self._label_mask is None else int(self._label_mask.sum())

    def value_of(self, output: Any, clamped: int) -> Value:
        """Compute the mean loss, and the accuracy if the labels are classes, from the outputs for all examples."""
        import torch

        losses = self.loss.values(output, self.y, is_checked=self._checked_shape == output.shape)
        self._checked_shape = output.shape if self.y.dtype == torch.int64 else None
        mask = self._label_mask
        samples = np.array((losses if mask is None else losses[mask.reshape(-1)]).double().cpu().numpy())
        finite = bool(np.isfinite(samples).all()) and bool(len(samples))
        metrics = {"loss": float(samples.mean()) if finite else math.nan}
        has_classes = output.shape[-1] > 1 if output.dim() == self.y.dim() + 1 else False
        if self.loss.kind != "mse" and not self.y.is_floating_point() and has_classes:
            correct = output.argmax(-1) == self.y
            share = correct.double().mean() if mask is None else correct[mask].double().mean()
            metrics["accuracy"] = float(share) if finite else math.nan
        return Value(metrics, samples if finite else np.empty(0), clamped)


def check_batch(batch: Any) -> int | None:
    """Return the batch size as an int, or None.

    :raises UsageError: if it is not an integer of at least 1.
    """
    if batch is None:
        return None
    if not isinstance(batch, SupportsIndex) or isinstance(batch, bool) or index(batch) < 1:
        raise UsageError(f"batch={batch!r}: the batch size must be an integer, 1 or more")
    return index(batch)


def concatenate_batches(data: Any, device: Any) -> tuple[Any, Any]:
    """Return (x, y) on the device, concatenating batches if necessary.

    :raises UsageError: if there are no examples, or the data are not pairs of equal length.
    """
    import torch

    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Mapping):
        keys = ", ".join(map(str, list(data[0])[:4]))
        raise UsageError(
            f"x is a {type(data[0]).__name__} with {keys}; pass the tensor that differs between examples as x, and "
            "forward= a function that calls the model with it, e.g. lambda net, x: net(input_ids=x)"
        )
    if not (isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")):
        with translate_errors("the data"):
            batches = list(data)
        if not batches or not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in batches):
            raise UsageError(f"data is a {type(data).__name__}: pass (x, y), or an iterable of batches (x, y)")
        with translate_errors("putting the batches together"):
            data = tuple(torch.cat([torch.as_tensor(batch[k]) for batch in batches]) for k in (0, 1))
    x, y = (torch.as_tensor(part).to(device) for part in data)
    if not len(x) or len(x) != len(y):
        raise UsageError(
            f"data has {len(x)} examples and {len(y)} labels: pass one label for each of at least one example"
        )
    return x, y


def draw_examples(x: Any, y: Any, count: int) -> tuple[Any, Any]:
    """Draw a reproducible subset of the examples, stratified by class if the labels are classes.

    :raises UsageError: if the count is below one or exceeds the number of examples.
    """
    import torch

    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(x):
        raise UsageError(f"examples={count!r}: it must be between 1 and {len(x):,}, the number of examples in the data")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    if y.dim() == 1 and not y.is_floating_point():
        classes = y.cpu()[order]
        rank = torch.zeros(len(order), dtype=torch.float64)  # rank within the class, from 0 to 1
        for label in classes.unique():
            members = (classes == label).nonzero().reshape(-1)
            rank[members] = (torch.arange(len(members)) + 0.5).double() / len(members)
        order = order[rank.argsort(stable=True)]
    chosen = order[:count].to(x.device)
    return x[chosen], y[chosen]
