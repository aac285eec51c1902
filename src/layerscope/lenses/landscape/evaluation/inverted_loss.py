"""Losses of an experiment."""

from __future__ import annotations

import math
from typing import Any


def inverted_cross_entropy(output: Any, labels: Any) -> Any:
    """−log(1 − p_y) of each example: a model that is never right has none of it. The loss of the abyss.

    In stable form: logsumexp of all logits less logsumexp of all but the label's.
    """
    import torch

    flat, y = output.reshape(-1, output.shape[-1]), labels.reshape(-1)
    others = flat.masked_fill(torch.nn.functional.one_hot(y, flat.shape[1]).bool(), -math.inf)
    return torch.logsumexp(flat, 1) - torch.logsumexp(others, 1)
