"""Smooth and sharpen layers: set some of their singular values to zero, by an exact SVD in float64."""

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
    """Keep the tail of each layer's spectrum and set the other singular values to zero (SVDSmoothing).

    Source: arXiv 2106.00734.

    :param target: any target of :func:`layerscope.analyze`, such as a live module or a file; it is not changed.
    :param keep: part of the spectrum to keep: "power_law" (eigenvalues from xmin on), "erg" (the tail whose eigenvalues
        multiply to one), "spikes" (eigenvalues beyond the Marchenko–Pastur bulk), a fraction of all eigenvalues (float)
        or a number per layer (int). In layers with several matrices, the largest eigenvalues of all matrices are kept.
    :param layers: indices, kinds, names or globs of the layers to edit; None for all.
    :param settings: settings of the fits.
    :return: tensor name → new weight, for the changed layers only; layers without such a tail are left out.
    :raises UsageError: ``keep`` is none of these values.
    """
    settings = settings or Settings()
    if isinstance(keep, str) and keep not in KEEP_RULES:
        raise UnknownName("part of the spectrum to keep", keep, KEEP_RULES)
    if not isinstance(keep, str | bool) and isinstance(keep, numbers.Real):  # NumPy's numbers too
        keep = int(keep) if isinstance(keep, numbers.Integral) else float(keep)
    number = isinstance(keep, int | float) and not isinstance(keep, bool)
    if not isinstance(keep, str) and (not number or not keep > 0 or (isinstance(keep, float) and keep > 1)):
        raise UsageError(
            f"keep={keep!r}: give {', '.join(map(repr, KEEP_RULES))}, a fraction (float) above 0 and at most 1, "
            "or a count (int) of at least 1"
        )

    def keep_tail(stack: Array, ref: LayerRef) -> Array | None:
        spectrum = spectra.esd(stack)
        count = tail_length(spectrum, keep, settings)
        return None if count <= 0 or count >= len(spectrum.evals) else keep_largest(stack, count)

    return _apply_to_layers(target, layers, settings, keep_tail)


def sharpen(
    target: Any, *, layers: Iterable[Selector] | Selector | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Drop as many of the largest singular values of a layer as it has correlation traps (SVDSharpness).

    Correlation traps are eigenvalues of the shuffled layer beyond the random bulk, caused by outlier weights. They are
    counted in seeded shuffles; the median of the counts is used.

    :param target: any target of :func:`layerscope.analyze`, such as a live module or a file; it is not changed.
    :param layers: indices, kinds, names or globs of the layers to edit; None for all.
    :param settings: seed and number of shuffles.
    :return: tensor name → new weight, for the layers that have traps.
    """
    settings = settings or Settings()

    def drop_traps(stack: Array, ref: LayerRef) -> Array | None:
        count = trap_count(stack, ref, settings)
        return None if count == 0 else drop_largest(stack, count)

    return _apply_to_layers(target, layers, settings, drop_traps)


def tail_length(spectrum: Spectrum, keep: str | int | float, settings: Settings) -> int:
    """Return the number of largest eigenvalues to keep; 0 if the rule does not apply to the spectrum."""
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
    dropped = settings.drop_top if family == "power_law" else 0  # excluded from the fit, but kept in the layer
    return int(fit.params["spikes"]) + dropped


def trap_count(stack: Array, ref: LayerRef, settings: Settings) -> int:
    """Median over the shuffles of their traps."""
    shuffler, times = random_matrix.Shuffler(stack), settings.shuffles_of(stack.shape[0] * stack.shape[2])
    seeds = ([settings.seed, max(ref.stored, 0), ref.slice or 0, number] for number in range(times))
    counts = [len(correlation_traps.analyze_shuffle(shuffler, seed, settings.spike_rate)[1]) for seed in seeds]
    return sorted(counts)[len(counts) // 2]


def keep_largest(stack: Array, count: int) -> Floats:
    """Return the stack with only the ``count`` largest singular values of all its matrices together."""
    return _select_singular_values(stack, lambda s: s >= np.sort(s, axis=None)[-count])


def drop_largest(stack: Array, count: int) -> Floats:
    """Return the stack without the ``count`` largest singular values of all its matrices together."""
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
    """Apply a change to each selected layer's stack and return the changed tensors by name."""
    edited: dict[str, Array] = {}
    with opening.opened_source(target) as source:
        refs = [ref for ref in select(list(source.layers()), layers) if not ref.skipped]
        for ref in refs:
            if ref.rank:
                raise UsageError(f"{ref.name}: a low-rank adapter; merge it with its base model first")
            try:
                stack = change(matrices.unfold(source.read(ref), ref, settings.conv), ref)
            except Absent:  # NaN or infinite entries: skip the layer
                continue
            if stack is not None:
                whole = edited[ref.tensor] if ref.tensor in edited else _read_whole_tensor(source, ref)
                with np.errstate(over="ignore"):
                    edited[ref.tensor] = matrices.put(whole, ref, matrices.fold(stack, ref, settings.conv))
                if not np.isfinite(edited[ref.tensor].astype(np.float64)).all():
                    raise UsageError(
                        f"{ref.name}: the new weights exceed the range of {ref.dtype}; "
                        "convert the model to float32 first"
                    )
        originals = _live_tensors(target)
        return {name: _match_original(array, originals.get(name)) for name, array in edited.items()}


def _read_whole_tensor(source: Source, ref: LayerRef) -> Array:
    """Return a writable copy of the whole tensor that contains a layer."""
    return np.array(source.read(replace(ref, part=None, expert=None)))


def _live_tensors(target: Any) -> Mapping[str, Any]:
    """Return the tensors of a live target by name, to take dtype and device from."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(target, torch.nn.Module):
        return dict(target.state_dict(keep_vars=True)) | dict(target.named_parameters(remove_duplicate=False))
    return target if isinstance(target, Mapping) else {}


def _match_original(array: Array, original: Any) -> Any:
    """Convert an array to the dtype and device of the original if that is a torch tensor."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(original, torch.Tensor):
        return array
    wide = torch.from_numpy(np.ascontiguousarray(array.astype(np.float64)))
    return wide.to(dtype=original.dtype, device=original.device)
