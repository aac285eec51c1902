"""GPT-2's ``Conv1D`` stores its weight as (in, out), because it computes x @ W.

``torch.nn.Linear`` computes x @ W.T and stores (out, in). Transformers uses ``Conv1D``, a linear layer despite its
name, in GPT-2 and in models derived from GPT-2's code; their files store weights in the same order.
"""

from __future__ import annotations

from typing import Any

AXES = "io"
DESCRIPTION = "stored (in, out)"
MODEL_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their projections are Conv1D


def is_conv1d(module: Any) -> bool:
    """Return whether a module is a transformers ``Conv1D``, recognized by class name without importing transformers."""
    return type(module).__name__ == "Conv1D"
