"""Which layers a user means: by index, by kind, by name with or without ``.weight``, or by a glob on the name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerscope.errors import NoLayerMatches, did_you_mean
from layerscope.types import LayerRef

Selector = int | str


def select(refs: Sequence[LayerRef], wanted: Iterable[Selector] | Selector | None) -> list[LayerRef]:
    """The same refs, those not wanted marked as skipped; None wants all.

    :raises NoLayerMatches: a selector matches nothing, or only tensors that are never analysed.
    """
    if wanted is None:
        return list(refs)
    selectors = [wanted] if isinstance(wanted, int | str) else list(wanted)
    chosen = {ref.index for selector in selectors for ref in _matches(refs, selector)}
    return [ref if ref.index in chosen or ref.skipped else replace(ref, skipped="not selected") for ref in refs]


def _matches(refs: Sequence[LayerRef], selector: Selector) -> list[LayerRef]:
    text = str(selector)
    found = [
        ref
        for ref in refs
        if text in (str(ref.index), ref.kind, ref.name, ref.tensor, _module(ref)) or fnmatch.fnmatchcase(ref.name, text)
    ]
    usable = [ref for ref in found if not ref.skipped]
    if usable:
        return usable
    if found:
        raise NoLayerMatches(f"layers {text!r}: {found[0].name} is never analysed ({found[0].skipped})")
    analysed = [ref for ref in refs if not ref.skipped]
    kinds = sorted({ref.kind for ref in analysed})
    hint = did_you_mean(text, [*kinds, *map(_module, analysed)])
    raise NoLayerMatches(
        f"layers {text!r} match nothing{hint} Give an index (0–{len(refs) - 1}), a kind ({', '.join(kinds)}) or a glob"
    )


def _module(ref: LayerRef) -> str:
    return ref.tensor.removesuffix(".weight")
