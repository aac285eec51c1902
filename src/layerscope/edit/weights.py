"""Smoothing and sharpening: layers with some of their singular values taken out, by an exact SVD in float64."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import Absent, UnknownName, UsageError
from layerscope.fits import fitting
from layerscope.metrics.erg import product_crossing
from layerscope.numerics import correlation_traps, matrices, random_matrix, spectra
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import LayerRef
from layerscope.records.sources import Source
from layerscope.settings import Settings
from layerscope.sources import opening
from layerscope.tensor_names import Selector, select

if TYPE_CHECKING:
    from layerscope.array_types import Array, Floats

KEEP_RULES = ("power_law", "erg", "spikes")


def smooth(
    target: Any,
    keep: str | int | float = "erg",
    *,
    layers: Iterable[Selector] | Selector | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Keep the tail of each layer's spectrum and drop the rest (SVDSmoothing, arXiv 2106.00734).

    :param target: what analyze takes: a live module, a state dict, a file, a folder. It is not changed.
    :param keep: "power_law" (eigenvalues from xmin on), "erg" (the tail whose eigenvalues multiply to one), "spikes"
        (those beyond the Marchenko–Pastur bulk), a fraction of all (float) or a number per layer (int); of several
        matrices in a layer the largest eigenvalues of all.
    :return: tensor name → new weight, of the layers that were changed; layers without a tail to keep are left out.
    :raises UsageError: ``keep`` is none of these.
    """
    settings = settings or Settings()
    if isinstance(keep, str) and keep not in KEEP_RULES:
        raise UnknownName("part of the spectrum to keep", keep, KEEP_RULES)
    if not isinstance(keep, str | bool) and isinstance(keep, numbers.Real):  # NumPy's numbers too
        keep = int(keep) if isinstance(keep, numbers.Integral) else float(keep)
    number = isinstance(keep, int | float) and not isinstance(keep, bool)
    if not isinstance(keep, str) and (not number or not keep > 0 or (isinstance(keep, float) and keep > 1)):
        raise UsageError(
            f"keep must be {', '.join(KEEP_RULES)}, a fraction above 0 and at most 1, or a count, not {keep!r}"
        )

    def keep_tail(stack: Array, ref: LayerRef) -> Array | None:
        spectrum = spectra.esd(stack)
        count = tail_length(spectrum, keep, settings)
        return None if count <= 0 or count >= len(spectrum.evals) else keep_largest(stack, count)

    return _apply_to_layers(target, layers, settings, keep_tail)


def sharpen(
    target: Any, *, layers: Iterable[Selector] | Selector | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Take out as many of the largest singular values as the layer has correlation traps (SVDSharpness).

    The traps are counted in seeded shuffles, the median of the counts is used.

    :return: tensor name → new weight, of the layers that have traps.
    """
    settings = settings or Settings()

    def drop_traps(stack: Array, ref: LayerRef) -> Array | None:
        count = trap_count(stack, ref, settings)
        return None if count == 0 else drop_largest(stack, count)

    return _apply_to_layers(target, layers, settings, drop_traps)


def tail_length(spectrum: Spectrum, keep: str | int | float, settings: Settings) -> int:
    """How many of the largest eigenvalues are kept; 0 where there is nothing to go by."""
    if isinstance(keep, int):
        return keep
    if isinstance(keep, float):
        return int(keep * len(spectrum.evals))
    if keep == "erg":
        try:
            return product_crossing(spectrum.evals)
        except Absent:
            return 0
    family = "power_law" if keep == "power_law" else "marchenko_pastur"
    fit = fitting.fit_all(spectrum, settings, (family,))[family]
    if not fit.ok:
        return 0
    dropped = settings.drop_top if family == "power_law" else 0  # kept out of the fit, not out of the layer
    return int(fit.params["spikes"]) + dropped


def trap_count(stack: Array, ref: LayerRef, settings: Settings) -> int:
    """Median over the shuffles of their traps."""
    shuffler, times = random_matrix.Shuffler(stack), settings.shuffles_of(stack.shape[0] * stack.shape[2])
    seeds = ([settings.seed, ref.index, ref.slice or 0, number] for number in range(times))
    counts = [len(correlation_traps.analyze_shuffle(shuffler, seed, settings.spike_rate)[1]) for seed in seeds]
    return sorted(counts)[len(counts) // 2]


def keep_largest(stack: Array, count: int) -> Floats:
    """The stack with only its ``count`` largest singular values, of all matrices together."""
    return _select_singular_values(stack, lambda s: s >= np.sort(s, axis=None)[-count])


def drop_largest(stack: Array, count: int) -> Floats:
    """The stack without its ``count`` largest singular values."""
    return _select_singular_values(stack, lambda s: s < np.sort(s, axis=None)[-min(count, s.size)])


def _select_singular_values(stack: Array, keep: Callable[[Floats], Array]) -> Floats:
    left, values, right = np.linalg.svd(stack.astype(np.float64), full_matrices=False)
    rebuilt: Floats = (left * np.where(keep(values), values, 0.0)[:, None, :]) @ right
    return rebuilt


def _apply_to_layers(
    target: Any,
    layers: Iterable[Selector] | Selector | None,
    settings: Settings,
    change: Callable[[Array, LayerRef], Array | None],
) -> dict[str, Any]:
    """Apply a change to each layer's stack and put the results back into whole tensors."""
    edited: dict[str, Array] = {}
    with opening.opened_source(target) as source:
        refs = [ref for ref in select(list(source.layers()), layers) if not ref.skipped]
        for ref in refs:
            if ref.rank:
                raise UsageError(f"{ref.name}: a low-rank adapter; merge it with its base model first")
            try:
                stack = change(matrices.unfold(source.read(ref), ref, settings.conv), ref)
            except Absent:  # not finite: nothing to edit
                continue
            if stack is not None:
                whole = edited[ref.tensor] if ref.tensor in edited else _read_whole_tensor(source, ref)
                with np.errstate(over="ignore"):
                    edited[ref.tensor] = matrices.put(whole, ref, matrices.fold(stack, ref, settings.conv))
                if not np.isfinite(edited[ref.tensor].astype(np.float64)).all():
                    raise UsageError(f"{ref.name}: the new weights leave the range of {ref.dtype}; widen them first")
        originals = _live_tensors(target)
        return {name: _match_original(array, originals.get(name)) for name, array in edited.items()}


def _read_whole_tensor(source: Source, ref: LayerRef) -> Array:
    """A writable copy of the whole tensor that a layer is part of."""
    return np.array(source.read(replace(ref, part=None, expert=None)))


def _live_tensors(target: Any) -> Mapping[str, Any]:
    """Live tensors by name, for their dtype and device."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(target, torch.nn.Module):
        return dict(target.state_dict(keep_vars=True)) | dict(target.named_parameters(remove_duplicate=False))
    return target if isinstance(target, Mapping) else {}


def _match_original(array: Array, original: Any) -> Any:
    """A torch tensor with the dtype and device of the original, where that is one."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(original, torch.Tensor):
        return array
    wide = torch.from_numpy(np.ascontiguousarray(array.astype(np.float64)))
    return wide.to(dtype=original.dtype, device=original.device)
