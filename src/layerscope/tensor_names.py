"""Select layers by index, by kind, by name with or without ``.weight``, or by a glob on the name.

A selector that begins with "-" or "!", or a negative index, excludes the layers that it matches.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerscope.errors import NoLayerMatches, did_you_mean
from layerscope.gguf_names import gguf_keys, is_gguf
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


WRAPPER_PREFIXES = (
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "model._orig_mod.",
    "base_model.model.",
)
# of DistributedDataParallel, torch.compile, DeepSpeed and Lightning, FSDP, a compiled Lightning model, and PEFT
INNER_WRAPPERS = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|modules_to_save\.\w+)\."
)
MAX_PREFIX_WORDS = 4  # words of a prefix that is tried
MIN_PREFIX_SHARE = 0.5  # share of a model's names that must have a prefix before it is tried
COUNTED = re.compile(r"(?P<base>[a-z][a-z0-9_]*?[a-z0-9])(_(?P<number>\d{1,6}))?")  # a layer that Keras names
WORDS = re.compile(r"([./])")
MAX_WORD_CHARS = 200
Keys = dict[str, str]


def matching_keys(*models: Sequence[str]) -> list[Keys]:
    """Return, for each model, name → key, such that layers of different models with equal keys match.

    The key is the name without the prefixes of training wrappers. Formats, frameworks and heads add a prefix to the
    names (``bert.``, ``model.language_model.``) or write slashes for dots: the prefixes are removed that make most
    names equal, if more names match than with fewer changes. Beside a GGUF file, the names of other models become those
    that llama.cpp gives them. The counters of Keras (``dense_3``) begin at one again.
    """
    keys = [{name: strip_wrapper_prefixes(name) for name in names} for names in models]
    if len(keys) < 2 or not all(keys):
        return keys
    keys = _in_terms_of_gguf(keys)
    best, matched = keys, _count_matches(keys)
    if matched == min(len(set(key_by_name.values())) for key_by_name in keys):
        return keys
    counted = [_without_counters(key_by_name) for key_by_name in keys]
    if _count_matches(counted) == min(map(len, counted)):  # the same layers, counted from another number
        return counted
    dotted = [{name: key.replace("/", ".") for name, key in key_by_name.items()} for key_by_name in keys]
    for first in _prefix_forms(dotted[0]):
        forms = [first, *(max(_prefix_forms(other), key=lambda form: _overlap(form, first)) for other in dotted[1:])]
        count = _count_matches(forms)
        if count > matched:
            best, matched = forms, count
    return best if _is_enough(best, keys) else keys


def _in_terms_of_gguf(keys: list[Keys]) -> list[Keys]:
    """The keys, those of other models as they are called in the GGUF files among the models."""
    are_gguf = [is_gguf(key_by_name.values()) for key_by_name in keys]
    if len(set(are_gguf)) == 1:
        return keys
    gguf_names = sorted(
        {key for key_by_name, is_it in zip(keys, are_gguf, strict=True) if is_it for key in key_by_name.values()}
    )
    translated = []
    for key_by_name, is_it in zip(keys, are_gguf, strict=True):
        names = {} if is_it else gguf_keys(list(key_by_name.values()), gguf_names)
        translated.append({name: names.get(key, key) for name, key in key_by_name.items()})
    return translated


def _without_counters(keys: Keys) -> Keys:
    """The keys with the counters of each kind of layer (dense_3, dense_4) replaced by their order, 0, 1, …

    They stay as they are where two keys would become one.
    """
    numbers: dict[str, set[int]] = {}
    for key in keys.values():
        for word in WORDS.split(key)[::2]:
            if match := COUNTED.fullmatch(word[:MAX_WORD_CHARS]):
                numbers.setdefault(match["base"], set()).add(int(match["number"] or 0))
    places = {(base, number): place for base, found in numbers.items() for place, number in enumerate(sorted(found))}

    def recount(word: str) -> str:
        match = COUNTED.fullmatch(word[:MAX_WORD_CHARS])
        return f"{match['base']}#{places[match['base'], int(match['number'] or 0)]}" if match else word

    counted = {name: "".join(map(recount, WORDS.split(key))) for name, key in keys.items()}
    return counted if len(set(counted.values())) == len(set(keys.values())) else keys


def _is_enough(best: Sequence[Keys], keys: Sequence[Keys]) -> bool:
    """Do names match without a change, or in at least two layers and half of the smaller model?"""
    common = set.intersection(*(set(form.values()) for form in best))
    layers = {key.rpartition(".")[0] for key in common}
    smallest = min(len(key_by_name) for key_by_name in keys)
    return _count_matches(keys) > 0 or (len(layers) > 1 and 2 * len(common) >= smallest)


def _count_matches(models: Sequence[Keys]) -> int:
    return len(set.intersection(*(set(key_by_name.values()) for key_by_name in models)))


def _overlap(one: Keys, other: Keys) -> int:
    return len(set(one.values()) & set(other.values()))


def _prefix_forms(keys: Keys) -> list[Keys]:
    """The keys as they are, and without each prefix that many of them share, unless names collide then."""
    counts: Counter[str] = Counter()
    for key in keys.values():
        words = key.split(".")[:-1][:MAX_PREFIX_WORDS]
        counts.update(".".join(words[: i + 1]) + "." for i in range(len(words)))
    prefixes = [
        prefix
        for prefix, count in counts.items()
        if count >= max(2, MIN_PREFIX_SHARE * len(keys)) and not any(word.isdecimal() for word in prefix.split("."))
    ]
    forms = [keys]
    for prefix in sorted(prefixes, key=len):
        form = {name: key.removeprefix(prefix) for name, key in keys.items()}
        if len(set(form.values())) == len(set(keys.values())):
            forms.append(form)
    return forms


def strip_wrapper_prefixes(name: str) -> str:
    """Remove the prefixes that training wrappers add to a name, in any nesting."""
    return _strip_prefixes(INNER_WRAPPERS.sub("", _strip_prefixes(name)))


def _strip_prefixes(name: str) -> str:
    before = None
    while name != before:
        before = name
        for wrapper in WRAPPER_PREFIXES:
            name = name.removeprefix(wrapper)
    return name
