"""Compare the tokenizers that lie beside two models: the number of every token, without loading a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerscope.sources.storage.json_text import read_json
from layerscope.text import plural

MAX_TOKENIZER_BYTES = 64 << 20
FILES = ("tokenizer.json", "vocab.json")


def describe_tokenizer_difference(first: Any, second: Any) -> str:
    """Describe how the tokens of two model folders differ; "" if they are equal or one folder has no tokenizer."""
    tokens, others = _tokens_of(first), _tokens_of(second)
    if not tokens or not others or tokens == others:
        return ""
    moved = sum(token in others and others[token] != number for token, number in tokens.items())
    unshared = len(tokens.keys() ^ others.keys())
    words = [f"{plural(moved, 'token')} with another number"] if moved else []
    words += [f"{plural(unshared, 'token')} in one of them only"] if unshared else []
    return f"the tokenizers differ ({len(tokens):,} and {len(others):,} tokens): {', '.join(words)}"


def _tokens_of(model: Any) -> dict[str, int]:
    """Return token → number of the tokenizer in a model's folder; {} if there is none that can be read."""
    if not isinstance(model, str | Path):
        return {}
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    for name in FILES:
        file = folder / name
        if file.is_file():
            try:
                return _tokens_in(read_json(file, MAX_TOKENIZER_BYTES))
            except (ValueError, OSError):
                return {}
    return {}


def _tokens_in(content: Any) -> dict[str, int]:
    if not isinstance(content, Mapping):
        return {}
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else content
    if isinstance(vocabulary, list):  # a unigram model: pairs of token and score, in the order of their numbers
        vocabulary = {pair[0]: i for i, pair in enumerate(vocabulary) if isinstance(pair, list) and pair}
    if not isinstance(vocabulary, Mapping):
        return {}
    added = content.get("added_tokens")
    extra = [token for token in added if isinstance(token, Mapping)] if isinstance(added, list) else []
    tokens = {**vocabulary, **{token.get("content"): token.get("id") for token in extra}}
    return {token: number for token, number in tokens.items() if isinstance(token, str) and isinstance(number, int)}
