"""Inverted cross entropy, a loss that is lowest for models that are always wrong."""

from __future__ import annotations

import math
from typing import Any


def inverted_cross_entropy(output: Any, labels: Any) -> Any:
    """Return −log(1 − p_y) for each example, a loss that is zero for a model that is always wrong.

    It is computed in a numerically stable form: logsumexp of all logits minus logsumexp of all logits except the
    label's.
    """
    import torch

    flat, y = output.reshape(-1, output.shape[-1]), labels.reshape(-1)
    others = flat.masked_fill(torch.nn.functional.one_hot(y, flat.shape[1]).bool(), -math.inf)
    return torch.logsumexp(flat, 1) - torch.logsumexp(others, 1)
