"""Low-rank adapters: which tensors are whose factors, and s·B·A without ever forming it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.sources._layout import TensorInfo
from layerscope.types import LayerRef

if TYPE_CHECKING:
    from layerscope.types import Array, Floats

FACTOR = re.compile(
    r"(?P<stem>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$"
)
MAGNITUDE = re.compile(r"(?P<stem>.+)\.lora_magnitude_vector(\.(?!weight$)(?P<adapter>[^.]+))?(\.weight)?$")
PREFIX = "base_model.model."


@dataclass
class Factors:
    """The tensors of one adapted module."""

    stem: str  # the module's name in the base model
    adapter: str  # "" or the adapter's name
    embedding: bool = False
    tensors: dict[str, TensorInfo] = field(default_factory=dict)  # "A", "B", "magnitude"

    @property
    def label(self) -> str:
        """Name of its row."""
        return f"{self.stem}.lora" + (f".{self.adapter}" if self.adapter not in ("", "default") else "")

    @property
    def rank(self) -> int:
        """r, the rows of A."""
        return self.tensors["A"].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of s·B·A as the module stores its weight."""
        a, b = self.tensors["A"].shape, self.tensors["B"].shape
        return (a[1], b[0]) if self.embedding else (b[0], *a[1:])

    def fault(self) -> str:
        """Why there is no product, or ""."""
        if set(self.tensors) < {"A", "B"}:
            missing = "B" if "A" in self.tensors else "A"
            return f"its factor {missing} is missing"
        a, b = self.tensors["A"], self.tensors["B"]
        for info in (a, b):
            if info.fault:
                return info.fault
        if len(a.shape) not in (2, 4) or len(b.shape) != len(a.shape):
            return f"factors of {len(a.shape)} and {len(b.shape)} axes"
        if a.shape[0] == 0 or 0 in a.shape or 0 in b.shape:
            return "rank 0: an adapter without parameters"
        if b.shape[1] != a.shape[0]:
            return f"A has rank {a.shape[0]}, B has rank {b.shape[1]}"
        return ""


def factors_of(tensors: Iterable[TensorInfo]) -> tuple[list[Factors], list[TensorInfo]]:
    """(adapted modules in stored order, the other tensors)."""
    found: dict[tuple[str, str], Factors] = {}
    others = []
    for info in tensors:
        match, which = FACTOR.match(info.name), ""
        if match:
            which = match["which"]
        elif match := MAGNITUDE.match(info.name):
            which = "magnitude"
        if not match:
            others.append(info)
            continue
        stem, adapter = match["stem"].removeprefix(PREFIX), match["adapter"] or ""
        factors = found.setdefault((stem, adapter), Factors(stem, adapter))
        factors.embedding = factors.embedding or bool(which in "AB" and match["embedding"])
        factors.tensors[which] = info
    return list(found.values()), others


def row_of(factors: Factors, scale: float) -> LayerRef:
    """The row of one adapter: a core of rank r for two-dimensional factors, the whole kernel for convolutions."""
    name, info = factors.label, next(iter(factors.tensors.values()))
    fault = factors.fault()
    if fault:
        return LayerRef(0, name, info.shape, "", info.dtype, "lora", tensor=name, skipped=fault)
    shape, rank = factors.shape, factors.rank
    how = f"{scale:.4g}·B·A of rank {rank}"
    if "magnitude" in factors.tensors:
        how += ", without DoRA's magnitudes"
    if len(shape) == 4:
        return LayerRef(0, name, shape, "oihw", "float64", "lora", tensor=name, how=how)
    if rank > min(shape):
        how += f", more than the matrix has ({min(shape)}): formed in full"
        return LayerRef(0, name, shape, "oi", "float64", "lora", tensor=name, how=how)
    return LayerRef(0, name, shape, "oi", "float64", "lora", tensor=name, rank=rank, how=how)


def core(a: Array, b: Array, scale: float) -> Floats:
    """An r × r matrix with the singular values of s·B·A: s·R_B·R_Aᵀ of the QR decompositions of B and Aᵀ."""
    r_a, r_b = (np.asarray(np.linalg.qr(x.astype(np.float64), mode="r")) for x in (a.T, b))
    small: Floats = scale * (r_b @ r_a.T)
    return small


def product(factors: Factors, a: Array, b: Array, scale: float) -> Floats:
    """s·B·A in float64, laid out as the module's weight."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    whole: Floats = scale * (y.reshape(len(y), -1) @ x.reshape(len(x), -1))
    return whole.T if factors.embedding else whole.reshape(factors.shape)


def scaling(config: Mapping[str, Any]) -> Callable[[Factors], float]:
    """The scale of each module as an adapter_config.json says: lora_alpha / r, over √r for rsLoRA, patterns first.

    :raises KeyError, TypeError, ValueError: it says none.
    """
    alpha, ranks, alphas = config["lora_alpha"], config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    root = bool(config.get("use_rslora"))
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError("lora_alpha is no number")

    def of(factors: Factors) -> float:
        own = float(_pattern(alphas, factors.stem, alpha))
        rank = int(_pattern(ranks, factors.stem, factors.rank if not factors.fault() else config.get("r", 1))) or 1
        return own / (math.sqrt(rank) if root else rank)

    return of


def _pattern(table: Mapping[str, Any], stem: str, default: Any) -> Any:
    """The value whose key is the module's name or its end, as PEFT matches them; a pattern is not run as one."""
    for key, value in table.items():
        plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".").removeprefix(".*")
        if stem == plain or stem.endswith(f".{plain.removeprefix('.')}"):
            return value
    return default
