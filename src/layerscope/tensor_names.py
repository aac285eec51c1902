"""Which layers a user means: by index, by kind, by name with or without ``.weight``, or by a glob on the name.

A selector that begins with "-" or "!", or a negative index, drops what it matches instead.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerscope.errors import NoLayerMatches, did_you_mean
from layerscope.records.layers import NOT_SELECTED, LayerRef

Selector = int | str


def select(refs: Sequence[LayerRef], layers: Iterable[Selector] | Selector | None) -> list[LayerRef]:
    """The same refs, those not wanted marked as skipped; None wants all, as do selectors that only drop.

    :raises NoLayerMatches: a selector matches nothing, or only tensors that are never analysed, or nothing is left.
    """
    if layers is None:
        return list(refs)
    selectors = [str(s) for s in ([layers] if isinstance(layers, int | str) else layers)]
    dropped = {ref.index for s in selectors if s[:1] in ("-", "!") for ref in _matching_refs(refs, s[1:])}
    selected = [s for s in selectors if s[:1] not in ("-", "!")]
    chosen = (
        {ref.index for s in selected for ref in _matching_refs(refs, s)} if selected else {ref.index for ref in refs}
    )
    chosen -= dropped
    if not any(ref.index in chosen for ref in refs if not ref.skipped):
        raise NoLayerMatches(f"layers {', '.join(selectors)!r} leave nothing to analyse")
    return [ref if ref.index in chosen or ref.skipped else replace(ref, skipped=NOT_SELECTED) for ref in refs]


def _matching_refs(refs: Sequence[LayerRef], text: str) -> list[LayerRef]:
    matches = [
        ref
        for ref in refs
        if text in (str(ref.index), ref.kind, ref.name, ref.tensor, _module_name(ref), strip_wrapper_prefixes(ref.name))
        or fnmatch.fnmatchcase(ref.name, text)
    ]
    usable = [ref for ref in matches if not ref.skipped]
    if usable:
        return usable
    if matches:
        raise NoLayerMatches(f"layers {text!r}: {matches[0].name} is never analysed ({matches[0].skipped})")
    analyzed = [ref for ref in refs if not ref.skipped]
    kinds = sorted({ref.kind for ref in analyzed})
    hint = did_you_mean(text, [*kinds, *map(_module_name, analyzed)])
    raise NoLayerMatches(
        f"layers {text!r} match nothing{hint} Give an index (0–{len(refs) - 1}), a kind ({', '.join(kinds)}) or a glob"
    )


def _module_name(ref: LayerRef) -> str:
    return ref.tensor.removesuffix(".weight")


WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model._orig_mod.")  # of DistributedDataParallel and torch.compile


def matching_keys(*models: Sequence[str]) -> list[dict[str, str]]:
    """For each model, name → the key by which layers are matched: the name without a training wrapper's prefix.

    Where that matches nothing, formats may have put a word of their own before all names, or slashes for dots: then
    the beginning that all names of a model share is taken off too, if half of the layers then match.
    """
    keys = [{name: strip_wrapper_prefixes(name) for name in names} for names in models]
    if len(keys) < 2 or set.intersection(*(set(key_by_name.values()) for key_by_name in keys)):
        return keys
    stripped = [_strip_common_prefix(names) for names in models]
    common = set.intersection(*(set(key_by_name.values()) for key_by_name in stripped))
    layers = {key.rpartition(".")[0] for key in common}
    is_enough = len(layers) > 1 and 2 * len(common) >= min(len(key_by_name) for key_by_name in stripped)
    return stripped if is_enough else keys


def _strip_common_prefix(names: Sequence[str]) -> dict[str, str]:
    words_by_name = {name: strip_wrapper_prefixes(name).replace("/", ".").split(".") for name in names}
    shared = 0
    while (
        all(len(parts) > shared + 1 for parts in words_by_name.values())
        and len({p[shared] for p in words_by_name.values()}) == 1
    ):
        shared += 1
    return {name: ".".join(parts[shared:]) for name, parts in words_by_name.items()}


def strip_wrapper_prefixes(name: str) -> str:
    """A name without what training wrappers put before it."""
    for wrapper in WRAPPER_PREFIXES:
        name = name.removeprefix(wrapper)
    return name
