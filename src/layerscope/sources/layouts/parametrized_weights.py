"""Weights that a module computes from several stored tensors: formed as the module's forward pass uses them.

PyTorch stores a pruned, weight-normalized or spectrally normalized weight as its ingredients. Each scheme is recognized
by the names and shapes of the ingredients; the weight takes their place and the ingredients are listed as its parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layerscope.numerics.matrices import low_rank_core
from layerscope.sources.layouts.torch_names import TensorInfo

if TYPE_CHECKING:
    from layerscope.array_types import Array

Fetch = Callable[[str], Any]
ScaleOf = Callable[[str, int], float]  # (module, rank of its factors) → scale of a LoRA adapter
LORA_PAIRS = (  # how the names of the two factors end: kohya, diffusers of all versions, GGUF and mlx-lm
    (".lora_down.weight", ".lora_up.weight"), (".lora.down.weight", ".lora.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"), (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_a", ".lora_b"), (".lora.a", ".lora.b"),
)  # fmt: skip
PEFT_PAIR = (".lora_A.weight", ".lora_B.weight")  # only where the file's kind gives their scale
PARAMETRIZED = re.compile(r"(?P<owner>.*\.|)parametrizations\.(?P<name>\w+)\.original(?P<first>0?)$", re.DOTALL)


class Formed(NamedTuple):
    """A weight that is computed from stored tensors."""

    name: str
    ingredients: tuple[str, ...]  # the first has the shape of the weight
    form: Callable[..., Array]  # from the ingredients, in their order
    how: str
    shape: tuple[int, ...] = ()  # () is that of the first ingredient
    rank: int = 0  # of a product of adapter factors that is read as its core
    derived: str = ""  # "lora" for the update of an adapter


def form_weights(
    tensors: list[TensorInfo], fetch: Fetch, lora_scale: ScaleOf | None = None
) -> tuple[list[TensorInfo], Fetch]:
    """Replace the ingredients of every known parametrization by the weight.

    :param lora_scale: the scale of LoRA factors, where the kind of the file gives it.
    :return: the tensors, and a function that fetches one of them by name.
    """
    infos = {info.name: info for info in tensors}
    recipes = {recipe.name: recipe for recipe in _recipes(infos, lora_scale) if recipe.name not in infos}
    if not recipes:
        return tensors, fetch
    weight_of = {name: recipe.name for recipe in recipes.values() for name in recipe.ingredients}
    formed: list[TensorInfo] = []
    for info in tensors:
        owner = weight_of.get(info.name)
        if owner is None:
            formed.append(info)
            continue
        recipe = recipes[owner]
        if info.name == recipe.ingredients[0]:
            derived = "lora" if recipe.rank else recipe.derived
            shape, dtype = recipe.shape or info.shape, "float64" if derived else info.dtype
            formed.append(
                TensorInfo(owner, shape, dtype, fault=info.fault, how=recipe.how, rank=recipe.rank, derived=derived)
            )
        formed.append(replace(info, storage=None, part_of=owner))

    def fetch_formed(name: str) -> Any:
        recipe = recipes.get(name)
        return fetch(name) if recipe is None else recipe.form(*(np.asarray(fetch(part)) for part in recipe.ingredients))

    return formed, fetch_formed


def masked(original: Array, mask: Array) -> Array:
    """W = orig ⊙ mask (torch.nn.utils.prune)."""
    return np.asarray(original * mask.astype(original.dtype))


def weight_normalized(direction: Array, magnitude: Array) -> Array:
    """W = g·v/‖v‖, with the norm over the axes on which g has size 1 (Salimans and Kingma 2016)."""
    wide = _widen(direction)
    axes = tuple(i for i, size in enumerate(np.shape(magnitude)) if size == 1) if np.size(magnitude) > 1 else None
    norm = np.sqrt(np.square(wide).sum(axis=axes, keepdims=True))
    return np.asarray((_widen(magnitude) * wide / norm).astype(direction.dtype))


def spectrally_normalized(original: Array, u: Array, v: Array) -> Array:
    """W = orig / (uᵀ·orig·v) with the stored singular vectors (Miyato et al. 2018).

    The matrix has the outputs as rows: axis 0, or axis 1 of a transposed convolution, whichever has the size of u.
    """
    wide = _widen(original)
    axis = 0 if len(u) == original.shape[0] else 1
    matrix = np.moveaxis(wide, axis, 0).reshape(len(u), -1)
    return np.asarray((wide / (_widen(u) @ matrix @ _widen(v))).astype(original.dtype))


def _widen(array: Array) -> Array:
    """The array in at least float32, in which these formulas are computed."""
    return np.asarray(array.astype(np.result_type(array.dtype, np.float32), copy=False))


def _recipes(infos: Mapping[str, TensorInfo], lora_scale: ScaleOf | None) -> Iterator[Formed]:
    pairs = LORA_PAIRS if lora_scale is None else (*LORA_PAIRS, PEFT_PAIR)
    endings = tuple(down for down, _ in pairs)
    for name, info in infos.items():
        if name.endswith("_orig"):
            yield from _recipe_of_original(name, info, infos)
        elif name.endswith("_v"):
            stem = name.removesuffix("_v")
            if _is_norm(infos.get(f"{stem}_g"), info) and f"{stem}_orig" not in infos:
                yield Formed(stem, (name, f"{stem}_g"), weight_normalized, "g·v/‖v‖ (weight norm)")
        elif match := PARAMETRIZED.match(name):
            yield from _recipe_of_parametrization(match, info, infos)
        elif name.endswith(endings) or (name.endswith(".down.weight") and "lora" in name.split(".")[-3:][0]):
            down, up = next((pair for pair in pairs if name.endswith(pair[0])), (".down.weight", ".up.weight"))
            yield from _recipe_of_adapter(
                name.removesuffix(down), info, infos.get(name.removesuffix(down) + up), infos, lora_scale
            )


def _recipe_of_original(name: str, info: TensorInfo, infos: Mapping[str, TensorInfo]) -> Iterator[Formed]:
    """Pruning and the spectral norm of torch.nn.utils, which rename the weight to weight_orig."""
    stem = name.removesuffix("_orig")
    mask, u, v = (infos.get(f"{stem}_{part}") for part in ("mask", "u", "v"))
    if mask is not None and mask.shape == info.shape:
        yield Formed(stem, (name, mask.name), masked, "orig ⊙ mask (pruned)")
    elif u is not None and v is not None and _is_spectral(info, u, v):
        yield Formed(stem, (name, u.name, v.name), spectrally_normalized, "orig/(uᵀ·orig·v) (spectral norm)")


def _recipe_of_parametrization(
    match: re.Match[str], info: TensorInfo, infos: Mapping[str, TensorInfo]
) -> Iterator[Formed]:
    """Weight norm and spectral norm of torch.nn.utils.parametrizations."""
    target = f"{match['owner']}{match['name']}"
    folder = f"{match['owner']}parametrizations.{match['name']}"
    if match["first"]:
        direction = infos.get(f"{folder}.original1")
        if direction is not None and _is_norm(info, direction):
            yield Formed(target, (direction.name, info.name), weight_normalized, "g·v/‖v‖ (weight norm)")
        return
    u, v = (infos.get(f"{folder}.0._{part}") for part in "uv")
    if u is not None and v is not None and _is_spectral(info, u, v):
        yield Formed(target, (info.name, u.name, v.name), spectrally_normalized, "orig/(uᵀ·orig·v) (spectral norm)")


def _recipe_of_adapter(
    stem: str,
    down: TensorInfo,
    up: TensorInfo | None,
    infos: Mapping[str, TensorInfo],
    lora_scale: ScaleOf | None,
) -> Iterator[Formed]:
    """The update s · up · down of a LoRA adapter outside PEFT, read as a core with its singular values.

    The scale is alpha/r with a stored alpha, or the rule of the file. mlx-lm stores both factors transposed.
    """
    alpha = infos.get(f"{stem}.alpha")
    if up is None or f"{stem}.lora_mid.weight" in infos or (alpha is not None and math.prod(alpha.shape) != 1):
        return
    if len(down.shape) == len(up.shape) == 4:
        yield from _recipe_of_convolution(stem, down, up, alpha, lora_scale)
        return
    if len(down.shape) != 2 or len(up.shape) != 2:
        return
    (rank, inputs), (outputs, up_rank) = down.shape, up.shape
    is_transposed = rank != up_rank or rank > min(inputs, outputs)
    if is_transposed:
        (inputs, rank), (up_rank, outputs) = down.shape, up.shape
    if rank != up_rank or not 0 < rank <= min(inputs, outputs):
        return

    def core(a: Array, b: Array, stored_alpha: Array | None = None) -> Array:
        scale = 1.0 if lora_scale is None else lora_scale(stem, rank)
        if stored_alpha is not None:
            scale = float(np.asarray(stored_alpha).reshape(())) / rank
        return low_rank_core(a.T, b.T, scale) if is_transposed else low_rank_core(a, b, scale)

    how = _describe_scale(stem, rank, alpha, lora_scale)
    if f"{stem}.dora_scale" in infos:
        how += ", without DoRA magnitudes"
    ingredients = (down.name, up.name, *([alpha.name] if alpha is not None else []))
    yield Formed(f"{stem}.lora", ingredients, core, how, (outputs, inputs), rank)


def _describe_scale(stem: str, rank: int, alpha: TensorInfo | None, lora_scale: ScaleOf | None) -> str:
    if alpha is not None:
        return f"alpha/{rank} · up · down"
    if lora_scale is not None:
        return f"{lora_scale(stem, rank):.4g} · up · down of rank {rank}"
    return f"up · down of rank {rank}; the file states no alpha"


def _recipe_of_convolution(
    stem: str, down: TensorInfo, up: TensorInfo, alpha: TensorInfo | None, lora_scale: ScaleOf | None
) -> Iterator[Formed]:
    """The update of a convolution: down (r, in, h, w), up (out, r, 1, 1), formed in full."""
    rank, outputs = down.shape[0], up.shape[0]
    if up.shape[1:] != (rank, 1, 1) or not rank:
        return

    def form(a: Array, b: Array, stored_alpha: Array | None = None) -> Array:
        scale = 1.0 if lora_scale is None else lora_scale(stem, rank)
        if stored_alpha is not None:
            scale = float(np.asarray(stored_alpha).reshape(())) / rank
        product = b.reshape(outputs, rank).astype(np.float64) @ a.reshape(rank, -1).astype(np.float64)
        return np.asarray(scale * product.reshape(outputs, *a.shape[1:]))

    how = _describe_scale(stem, rank, alpha, lora_scale)
    ingredients = (down.name, up.name, *([alpha.name] if alpha is not None else []))
    yield Formed(f"{stem}.lora", ingredients, form, how, (outputs, *down.shape[1:]), derived="lora")


def _is_norm(magnitude: TensorInfo | None, direction: TensorInfo) -> bool:
    """Is it the g of weight norm: as many axes as v, each of size 1 or that of v, or a single number?"""
    if magnitude is None or len(direction.shape) < 2:
        return False
    if math.prod(magnitude.shape) == 1:
        return True
    pairs = zip(magnitude.shape, direction.shape, strict=False)
    return len(magnitude.shape) == len(direction.shape) and all(a in (1, b) for a, b in pairs)


def _is_spectral(original: TensorInfo, u: TensorInfo, v: TensorInfo) -> bool:
    """Do u and v have the lengths of the two sides of the matrix?"""
    if len(original.shape) < 2 or len(u.shape) != 1 or len(v.shape) != 1:
        return False
    return u.shape[0] in original.shape[:2] and u.shape[0] * v.shape[0] == math.prod(original.shape)
