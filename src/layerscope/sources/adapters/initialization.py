"""Initializations of LoRA that change the base model before training: PiSSA and OLoRA are computed again, as PEFT does.

With such an initialization the adapter is trained on W − s·B₀·A₀, so that the adapted weight is W − s·B₀·A₀ + s·B·A.
Sources: Meng et al., NeurIPS 2024 (arXiv 2404.02948, PiSSA); Büyükakyüz 2024 (arXiv 2406.01775, OLoRA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array

BASE_KEPT = ("gaussian", "eva", "orthogonal", "mica", "true", "false", "none")  # B₀·A₀ = 0, or the base stays as it is
REMEDY = (
    "convert the adapter with model.save_pretrained(..., path_initial_model_for_weight_conversion=...), "
    "or save model.merge_and_unload()"
)
Residual = Callable[["Array", int, float], "Array"]  # (W of shape (out, in), rank, scale) → W − s·B₀·A₀


def residual_of(config: Mapping[str, Any]) -> Residual | None:
    """Return the function that gives the base weight which the adapter was trained on; None if it is W itself.

    :raises ValueError: the initialization changed the base in a way that cannot be computed again.
    """
    value = config.get("init_lora_weights")
    name = str(value).lower()
    if value is None or name in BASE_KEPT:
        return None
    if name == "pissa":
        return without_top_components
    if name == "olora":
        return without_first_columns
    raise ValueError(
        f"init_lora_weights={str(value)[:40]!r} changed the base model before training in a way that cannot be "
        f"computed again; {REMEDY}"
    )


def without_top_components(weight: Array, rank: int, scale: float) -> Array:
    """PiSSA: W less its ``rank`` largest singular components; the scale cancels."""
    u, s, vt = np.linalg.svd(weight.astype(np.float32), full_matrices=False)
    residual: Array = weight.astype(np.float32) - (u[:, :rank] * s[:rank]) @ vt[:rank]
    return residual.astype(weight.dtype)


def without_first_columns(weight: Array, rank: int, scale: float) -> Array:
    """OLoRA: W − s·Q_r·R_r with the first r columns of Q and rows of R of W = Q·R."""
    q, r = np.linalg.qr(weight.astype(np.float32))
    residual: Array = weight.astype(np.float32) - np.float32(scale) * (q[:, :rank] @ r[:rank])
    return residual.astype(weight.dtype)
