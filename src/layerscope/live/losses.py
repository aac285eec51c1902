"""Losses of single examples, and square roots of the Fisher matrix of the model's outputs, on torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from layerscope.errors import UnknownName, UsageError
from layerscope.live.user_code import translate_errors

NAMES = ("cross_entropy", "mse")
IGNORED = -100  # the label of a position without a label, as in torch
MIN_ROW_CLASSES = 16  # with fewer classes a row does not fill a vector register of the processor


@dataclass(frozen=True)
class Loss:
    """The loss of each example, −log q(y | output).

    q is the softmax for "cross_entropy", and a Gaussian with variance 1 for "mse": ½‖f − y‖², summed over the outputs,
    while nn.MSELoss averages over them. A user function (output, labels) → (examples,) defines no q, so that only the
    empirical Fisher matrix exists.
    """

    kind: str
    function: Callable[[Any, Any], Any] | None = None

    @classmethod
    def of(cls, loss: str | Callable[[Any, Any], Any]) -> Loss:
        """Return the loss with this name, or wrap a user function.

        :raises UnknownName: no loss has that name.
        """
        if callable(loss):
            return cls("function", loss)
        if loss not in NAMES:
            raise UnknownName("loss", str(loss), NAMES)
        return cls(loss)

    def values(self, output: Any, labels: Any, *, is_checked: bool = False) -> Any:
        """Return the loss of each example, (examples,); ignored positions have loss 0.

        :param is_checked: skip the validation, because labels and outputs of this shape were validated before.
        :raises UsageError: the labels do not fit the outputs, or a user function returns another shape.
        """
        import torch

        if not isinstance(output, torch.Tensor):
            raise UsageError(
                f"the model returns a {type(output).__name__}, not a tensor; give forward= to extract the output"
            )
        if self.function is not None:
            with translate_errors("the loss"):
                values = self.function(output, labels)
            shape: tuple[Any, ...] = tuple(getattr(values, "shape", ()))
            rows = {len(output), output.shape[:-1].numel()} if output.dim() else {1}
            if not isinstance(values, torch.Tensor) or len(shape) != 1 or shape[0] not in rows:
                kind = "a single number" if isinstance(values, torch.Tensor) else f"a {type(values).__name__}"
                returned = f"shape {shape}" if shape else kind
                hint = 'use reduction="none", or a named loss ("cross_entropy", "mse")'
                raise UsageError(f"the loss returns {returned}, not one value for each example; {hint}")
            return values
        if self.kind == "mse":
            if not isinstance(labels, torch.Tensor) or output.shape != labels.shape or not output.dim():
                shape = tuple(getattr(labels, "shape", ()))
                found = f"targets have shape {shape}" if shape else f"targets are a {type(labels).__name__}"
                raise UsageError(f"outputs have shape {tuple(output.shape)} and {found}; mse needs equal shapes")
            return 0.5 * (output - labels).square().reshape(len(output), -1).sum(1)
        logits, labels = _flatten_tokens(output, labels)
        if is_checked:
            return _cross_entropy(logits, labels)
        if labels.is_floating_point() or labels.is_complex():
            raise UsageError(
                f"labels are {str(labels.dtype)[6:]}; cross_entropy needs class indices, e.g. labels.long()"
            )
        mask = labels != IGNORED
        highest = int(labels[mask].max()) if bool(mask.any()) else 0
        lowest = int(labels[mask].min()) if bool(mask.any()) else 0
        if highest >= logits.shape[1] or lowest < 0:
            classes = logits.shape[1]
            raise UsageError(
                f"labels from {lowest} to {highest}; with {classes} outputs they must be from 0 to {classes - 1}"
            )
        return _cross_entropy(logits, labels.long())

    def label_mask(self, labels: Any) -> Any:
        """Return a boolean tensor of the examples (or tokens) that have a label; None if all of them do."""
        if self.kind != "cross_entropy":
            return None
        mask = labels != IGNORED
        return None if bool(mask.all()) else mask

    def examples(self, values: Any, labels: Any) -> int:
        """Count the examples; ignored positions do not count."""
        return int((labels != IGNORED).sum()) if self.kind == "cross_entropy" else len(values)

    def columns(self, output: Any, labels: Any, fisher: str, seed: tuple[int, int], max_columns: int) -> Iterator[Any]:
        """Yield tensors v of the output's shape that factor the Fisher matrix of each example's output.

        "exact" yields one v per class or output, and the matrix is Σ v vᵀ: √p_c·(e_c − p) for the softmax, e_c for the
        Gaussian. "mc" yields one random v, and the matrix is E[v vᵀ]: p − e_y with y drawn from p, or a normal draw.

        :param max_columns: largest number of tensors that "exact" may yield; each costs a backward pass.
        :raises UsageError: the loss is a user function, or "exact" needs more than ``max_columns`` tensors.
        """
        import torch

        if self.function is not None:
            raise UsageError(
                f"fisher={fisher!r} needs a loss that defines a distribution ({', '.join(NAMES)}), not a function"
            )
        generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
        detached = output.detach()
        if fisher == "exact" and self.kind == "cross_entropy" and detached.dim() > 2:
            raise UsageError(
                "fisher='exact' on sequences needs a backward pass per token; use fisher='mc', or tokens as examples"
            )
        count = detached.reshape(len(detached), -1).shape[1] if self.kind == "mse" else detached.shape[-1]
        if fisher == "exact" and count > max_columns:
            raise UsageError(
                f"fisher='exact' needs {count} backward passes for {count} outputs, more than {max_columns}; use 'mc'"
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
    """Return the cross entropy of each row, (rows,).

    With few classes it is computed column by column. The result is the same and the computation several times faster,
    because a row of ten numbers does not fill a vector register.
    """
    import torch
    from torch.nn import functional

    if logits.shape[1] >= MIN_ROW_CLASSES or torch.is_grad_enabled():
        return functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    columns = logits.t().contiguous().unsqueeze(0)
    return functional.cross_entropy(columns, labels.unsqueeze(0), reduction="none", ignore_index=IGNORED)[0]


def _flatten_tokens(output: Any, labels: Any) -> tuple[Any, Any]:
    """Reshape logits to (rows, classes) and labels to (rows,); each token of a sequence is a row."""
    if not hasattr(labels, "shape") or not hasattr(labels, "is_floating_point"):
        raise UsageError(f"labels are a {type(labels).__name__}; cross_entropy needs a tensor of class indices")
    if output.dim() < 2 or tuple(output.shape[:-1]) != tuple(labels.shape):
        shapes = f"outputs have shape {tuple(output.shape)} and labels have shape {tuple(labels.shape)}"
        raise UsageError(f"{shapes}; cross_entropy needs (…, classes) and (…)")
    return output.reshape(-1, output.shape[-1]), labels.reshape(-1)
