"""Select layers by index, by kind, by name with or without ``.weight``, or by a glob on the name.

A selector that begins with "-" or "!", or a negative index, excludes the layers that it matches.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerscope.errors import NoLayerMatches, did_you_mean
from layerscope.records.layers import NOT_SELECTED, LayerRef

Selector = int | str


def select(refs: Sequence[LayerRef], layers: Iterable[Selector] | Selector | None) -> list[LayerRef]:
    """Return all refs, with those that are not selected marked as skipped.

    :param layers: selectors; None selects all layers, and selectors that only exclude select all others.
    :raises NoLayerMatches: a selector matches nothing or only tensors that are never analyzed, or no layer is left.
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
        raise NoLayerMatches(f"layers {', '.join(selectors)!r} leave no layer to analyze; exclude fewer layers")
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
        raise NoLayerMatches(
            f"layers {text!r}: {matches[0].name} cannot be analyzed ({matches[0].skipped}); choose another layer"
        )
    analyzed = [ref for ref in refs if not ref.skipped]
    kinds = sorted({ref.kind for ref in analyzed})
    hint = did_you_mean(text, [*kinds, *map(_module_name, analyzed)])
    raise NoLayerMatches(
        f"layers {text!r} match no layer{hint} Give an index (0–{len(refs) - 1}), a kind ({', '.join(kinds)}), a name "
        "or a glob"
    )


def _module_name(ref: LayerRef) -> str:
    return ref.tensor.removesuffix(".weight")


WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model._orig_mod.")  # from DistributedDataParallel and torch.compile


def matching_keys(*models: Sequence[str]) -> list[dict[str, str]]:
    """Return, for each model, name → key, such that layers of different models with equal keys match.

    The key is the name without the prefixes of training wrappers. If no names match then, the models may come from
    formats that add a common prefix or use slashes. In this case slashes become dots, and the prefix that all names of
    a model share is removed, provided that at least half of the layers then match.
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
    """Remove the prefixes that training wrappers add to a name."""
    for wrapper in WRAPPER_PREFIXES:
        name = name.removeprefix(wrapper)
    return name
