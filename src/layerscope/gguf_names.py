"""Names of Hugging Face models in terms of GGUF, by the tables with which the ``gguf`` package converts them.

The architecture is found from the names: of all that ``gguf`` maps, those count that map most of them. A name to which
these architectures give different names, and names that two tensors would share, are left as they are.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

GGUF_NAME = re.compile(
    r"(blk|enc\.blk|dec\.blk)\.\d+\.|(token_embd|output_norm|output|token_types|position_embd)\.weight$"
)
SUFFIXES = (".weight", ".bias")
BODY_PREFIXES = ("model.", "transformer.", "gpt_neox.", "bert.")  # that a model without its head does not have
MAX_WORDS_REMOVED = 3  # of a prefix such as model.language_model.
MAX_NAME_CHARS = 300
MIN_SHARE = 0.5  # of the GGUF file's templates that must be found


class Template(NamedTuple):
    """A name without its numbers."""

    stem: str  # with {bid} for the number of the block, and without that of an expert
    block: str
    expert: str
    ending: str  # .weight or .bias, and a part in brackets


def is_gguf(names: Iterable[str]) -> bool:
    """Are most of these names those of llama.cpp?"""
    hits = [GGUF_NAME.match(name) is not None for name in names]
    return sum(hits) > len(hits) / 2


def gguf_keys(names: Sequence[str], gguf_names: Sequence[str]) -> dict[str, str]:
    """Name → name in the GGUF file, of the tensors that have one there; {} without the ``gguf`` package."""
    templates = {name: _template(name) for name in names if len(name) <= MAX_NAME_CHARS}
    wanted = {_template(name).stem for name in gguf_names if len(name) <= MAX_NAME_CHARS}
    stems = {template.stem for template in templates.values()}
    mapped = [{s: found for s in stems if (found := _look_up(s, table, wanted))} for table in _tables()]
    most = max((len(set(table.values())) for table in mapped), default=0)
    if most < max(2, MIN_SHARE * len(wanted)):
        return {}
    best = [table for table in mapped if len(set(table.values())) == most]
    agreed = {stem: best[0][stem] for stem in best[0] if all(table.get(stem) == best[0][stem] for table in best)}
    keys = {name: _key(t, agreed[t.stem]) for name, t in templates.items() if t.stem in agreed}
    counts = Counter(keys.values())
    existing = set(gguf_names)
    return {name: key for name, key in keys.items() if counts[key] == 1 and key in existing}


def gguf_names_of(names: Sequence[str]) -> dict[str, str]:
    """Name → name that llama.cpp's conversion gives, of the tensors for which it is known; {} without ``gguf``.

    Single experts have none, because they are stored together.
    """
    if is_gguf(names):
        return {name: name for name in names}
    templates = {name: template for name in names if not (template := _template(name)).expert}
    stems = {template.stem for template in templates.values()}
    mapped = [{s: found for s in stems if (found := _look_up(s, table, {*table.values()}))} for table in _tables()]
    best = max(mapped, key=lambda table: len(set(table.values())), default={})
    return {name: _key(t, best[t.stem]) for name, t in templates.items() if t.stem in best}


def _template(name: str) -> Template:
    stem, bracket, part = name.partition("[")
    suffix = next((s for s in SUFFIXES if stem.endswith(s)), "")
    block = expert = ""
    words: list[str] = []
    for word in stem.removesuffix(suffix).split("."):
        if not word.isdecimal():
            words.append(word)
        elif words and (words[-1] == "experts" or words[-1].endswith("_exps")):
            expert = word
        elif not block:
            block = word
            words.append("{bid}")
        else:
            words.append(word)
    return Template(".".join(words), block, expert, suffix + bracket + part)


def _key(template: Template, stem: str) -> str:
    expert = f".{template.expert}" if template.expert else ""
    return stem.replace("{bid}", template.block) + expert + template.ending


def _look_up(stem: str, table: dict[str, str], wanted: set[str]) -> str:
    """The GGUF name of a stem, as it is, with a prefix, or without one; "" if the file has none of these."""
    words = stem.split(".")
    forms = [
        stem,
        *(prefix + stem for prefix in BODY_PREFIXES),
        *(".".join(words[i:]) for i in range(1, MAX_WORDS_REMOVED + 1)),
    ]
    return next((found for form in forms if (found := table.get(form, "")) in wanted and found), "")


@functools.cache
def _tables() -> list[dict[str, str]]:
    """For each architecture, name in Hugging Face → name in GGUF, both with {bid}; [] without the ``gguf`` package."""
    try:
        from gguf import MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES, TensorNameMap
    except ImportError:
        return []
    tables = []
    for architecture in MODEL_ARCH:
        blocks = {**TensorNameMap.block_mappings_cfg, **TensorNameMap.arch_block_mappings_cfg.get(architecture, {})}
        table: dict[str, str] = {}
        for tensor, keys in [*TensorNameMap.mappings_cfg.items(), *blocks.items()]:
            if tensor in MODEL_TENSORS[architecture]:
                table.update(dict.fromkeys(keys, TENSOR_NAMES[tensor]))
        tables.append(table)
    return tables
