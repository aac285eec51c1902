"""Losses by name, example by example, and the square root of the Fisher of what the model outputs. Torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from layerscope.errors import UnknownName, UsageError
from layerscope.live.user_code import translate_errors

NAMES = ("cross_entropy", "mse")
IGNORED = -100  # the label of a position that has none, as in torch
MIN_ROW_CLASSES = 16  # numbers that a processor takes at once


@dataclass(frozen=True)
class Loss:
    """−log q(y | output) of each example: softmax with "cross_entropy", a Gaussian of variance 1 with "mse", ½‖f − y‖²
    without the mean over outputs that nn.MSELoss takes. A function (output, labels) → (examples,) has no q: only
    the empirical Fisher is defined."""

    kind: str
    function: Callable[[Any, Any], Any] | None = None

    @classmethod
    def of(cls, loss: str | Callable[[Any, Any], Any]) -> Loss:
        """The loss of a name or of a function."""
        if callable(loss):
            return cls("function", loss)
        if loss not in NAMES:
            raise UnknownName("loss", str(loss), NAMES)
        return cls(loss)

    def values(self, output: Any, labels: Any, *, is_checked: bool = False) -> Any:
        """(examples,): the loss of each; ignored positions have none.

        :param is_checked: labels and the shape of the output are known to fit.

        :raises UsageError: the labels do not fit the output, or a function returns another shape.
        """
        import torch

        if not isinstance(output, torch.Tensor):
            raise UsageError(f"the model returns a {type(output).__name__}, not a tensor: give forward=")
        if self.function is not None:
            with translate_errors("the loss"):
                values = self.function(output, labels)
            shape: tuple[Any, ...] = tuple(getattr(values, "shape", ()))
            rows = {len(output), output.shape[:-1].numel()} if output.dim() else {1}
            if not isinstance(values, torch.Tensor) or len(shape) != 1 or shape[0] not in rows:
                returned = shape or ("a single number" if isinstance(values, torch.Tensor) else type(values).__name__)
                hint = 'name it ("cross_entropy", "mse"), or use reduction="none"'
                raise UsageError(f"the loss returns {returned}, not one value for each example: {hint}")
            return values
        if self.kind == "mse":
            if not isinstance(labels, torch.Tensor) or output.shape != labels.shape or not output.dim():
                what = tuple(getattr(labels, "shape", ())) or type(labels).__name__
                raise UsageError(f"outputs of {tuple(output.shape)} and targets of {what}")
            return 0.5 * (output - labels).square().reshape(len(output), -1).sum(1)
        logits, labels = _flatten_tokens(output, labels)
        if is_checked:
            return _cross_entropy(logits, labels)
        if labels.is_floating_point() or labels.is_complex():
            raise UsageError(f"labels of {str(labels.dtype)[6:]}: cross_entropy takes whole numbers, a class each")
        mask = labels != IGNORED
        highest = int(labels[mask].max()) if bool(mask.any()) else 0
        lowest = int(labels[mask].min()) if bool(mask.any()) else 0
        if highest >= logits.shape[1] or lowest < 0:
            raise UsageError(f"labels from {lowest} to {highest}, and the model has {logits.shape[1]} outputs")
        return _cross_entropy(logits, labels.long())

    def label_mask(self, labels: Any) -> Any:
        """Which examples (or tokens) have a label, as a tensor of truths; None where all have."""
        if self.kind != "cross_entropy":
            return None
        mask = labels != IGNORED
        return None if bool(mask.all()) else mask

    def examples(self, values: Any, labels: Any) -> int:
        """How many examples these are: ignored positions do not count."""
        return int((labels != IGNORED).sum()) if self.kind == "cross_entropy" else len(values)

    def columns(self, output: Any, labels: Any, fisher: str, seed: tuple[int, int], max_columns: int) -> Iterator[Any]:
        """Vectors v of the output's shape with E[v vᵀ] (or, of "exact", Σ v vᵀ) its Fisher, example by example.

        Softmax: √p_c·(e_c − p), or p − e_y with y drawn from p. Gaussian: e_c, or a normal draw.

        :raises UsageError: a loss without q, or more columns than ``max_columns``.
        """
        import torch

        if self.function is not None:
            raise UsageError(f"fisher={fisher!r} needs a loss that is a distribution: {', '.join(NAMES)}")
        generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
        detached = output.detach()
        if fisher == "exact" and self.kind == "cross_entropy" and detached.dim() > 2:
            raise UsageError(
                "the exact Fisher of a sequence takes a pass for every token: use mc, or tokens as examples"
            )
        count = detached.reshape(len(detached), -1).shape[1] if self.kind == "mse" else detached.shape[-1]
        if fisher == "exact" and count > max_columns:
            raise UsageError(
                f"the exact Fisher of {count} outputs takes {count} backward passes, more than {max_columns}: mc"
            )
        if self.kind == "mse":
            if fisher == "mc":
                yield torch.randn(detached.shape, generator=generator).to(detached)
                return
            for c in range(count):
                column = torch.zeros_like(detached).reshape(len(detached), -1)
                column[:, c] = 1.0
                yield column.reshape(detached.shape)
            return
        p, mask = detached.softmax(-1), (labels != IGNORED).unsqueeze(-1)
        if fisher == "mc":
            chosen = torch.multinomial(p.reshape(-1, count).cpu(), 1, generator=generator).to(p.device)
            yield mask * (p - torch.zeros_like(p).reshape(-1, count).scatter_(1, chosen, 1.0).reshape(p.shape))
            return
        for c in range(count):
            unit = torch.zeros_like(p)
            unit[..., c] = 1.0
            yield mask * p[..., c : c + 1].sqrt() * (unit - p)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    """(rows,): of few classes column by column, which is the same and several times faster: a row of ten fills no
    register."""
    import torch
    from torch.nn import functional

    if logits.shape[1] >= MIN_ROW_CLASSES or torch.is_grad_enabled():
        return functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    columns = logits.t().contiguous().unsqueeze(0)
    return functional.cross_entropy(columns, labels.unsqueeze(0), reduction="none", ignore_index=IGNORED)[0]


def _flatten_tokens(output: Any, labels: Any) -> tuple[Any, Any]:
    """Logits (rows, classes) and labels (rows,): tokens of sequences are rows."""
    if not hasattr(labels, "shape") or not hasattr(labels, "is_floating_point"):
        raise UsageError(f"labels are a {type(labels).__name__}, not a tensor")
    if output.dim() < 2 or tuple(output.shape[:-1]) != tuple(labels.shape):
        shapes = f"outputs of {tuple(output.shape)} and labels of {tuple(labels.shape)}"
        raise UsageError(f"{shapes}: cross_entropy takes (…, classes) and (…)")
    return output.reshape(-1, output.shape[-1]), labels.reshape(-1)
