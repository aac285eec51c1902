"""The order in which the layers of a model are listed: the model's own where the file kept it, else by name.

A PyTorch state dict, a Keras file or an ONNX graph lists tensors in the order in which the model was built. A
safetensors file, a JAX tree or a file converted from one lists them by alphabet: ``layers.10`` before ``layers.2``,
the head before the blocks. There the order is rebuilt from the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from layerscope.records.layers import LayerRef, with_fields

ALPHABETICAL_SHARE = 0.05  # descents per name in an alphabetical order: one per shard or dtype
MIN_NAMES = 4  # fewer names are in alphabetical order by chance
NUMBERS = re.compile(r"(\d+)")
SEPARATORS = re.compile(r"[./]")
MAX_NAME_CHARS = 2_000  # characters of a name that are looked at
MAX_WORDS = 24  # of a name
FIRST, EARLY, MIDDLE, LATE, LAST = range(5)

# Words of names by the place of their module among its siblings; matched whole, numbers at the end left out.
WORDS_BY_RANK = {
    FIRST: (
        "shared token_embd token_embd_norm wte wpe embed embedding embeddings embed_in embed_tokens embed_positions "
        "tok_embeddings word_embeddings position_embeddings token_type_embeddings position_embd token_types "
        "word_embeddings_layernorm patch_embed patch_embedding cls_token pos_embed stem conv_stem conv_in "
        "feature_extractor feature_projection time_embed time_embedding"
    ),
    EARLY: "self_attn self_attention attention attn self encoder text_model backbone down_blocks",
    LATE: "decoder output_norm ln_f norm_f final_norm final_layernorm final_layer_norm up_blocks conv_head",
    LAST: (
        "head heads lm_head embed_out classifier fc logits score output_layer conv_out pooler cls qa_outputs "
        "classification_head out_head mlm_head"
    ),
}
RANKS = {word: rank for rank, words in WORDS_BY_RANK.items() for word in words.split()}
AT_TOP = {"output": LAST, "norm": LATE, "ln": LATE, "layernorm": LATE, "layer_norm": LATE, "mixer": MIDDLE}
IN_BLOCK = {"q": 0, "k": 1, "v": 2, "o": 3, "out": 3, "gate": 4, "up": 5, "down": 6}  # q_proj, k_proj, …
IN_BLOCK_ALONE = {"q": 0, "query": 0, "k": 1, "key": 1, "v": 2, "value": 2}
EMBEDDINGS = frozenset(["token_embd", "wte", "embed_tokens", "tok_embeddings", "word_embeddings", "embed_in"])
HEADS = frozenset(["lm_head", "embed_out", "output_layer"])


def in_model_order(refs: Iterable[LayerRef]) -> list[LayerRef]:
    """The refs in the order of :func:`layer_order`; each keeps the position that it had as ``stored``."""
    stored = [ref if ref.stored >= 0 else with_fields(ref, stored=i) for i, ref in enumerate(refs)]
    return [stored[i] for i in layer_order([ref.name for ref in stored])]


def layer_order(names: Sequence[str]) -> list[int]:
    """Positions of the names in the order in which a model's layers are listed; equal places keep their order.

    Names in alphabetical order are sorted by what they say: embeddings first, blocks by their number, attention before
    the feed-forward layers, norm and head last. In any other order only blocks whose numbers are out of order move.
    """
    positions = list(range(len(names)))
    words = [_words(name) for name in names]
    if len(names) >= MIN_NAMES and _is_alphabetical(names, words):
        return sorted(positions, key=lambda i: tuple(_place(word, depth) for depth, word in enumerate(words[i])))
    if _has_numbers_out_of_order(words):
        positions = _sorted_by_block(words)
    ends = {i: _end_of_model(words[i]) for i in positions}
    return sorted(positions, key=ends.__getitem__)


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key in which numbers count as numbers: layer2 before layer10."""
    pieces = NUMBERS.split(text)
    return tuple((0, int(piece)) if i % 2 else (1, piece) for i, piece in enumerate(pieces) if piece)


def _words(name: str) -> list[str]:
    return name[:MAX_NAME_CHARS].partition("[")[0].replace("/", ".").split(".", MAX_WORDS)


def _is_alphabetical(names: Sequence[str], words: Sequence[list[str]]) -> bool:
    """Are nearly all names in ascending order, as strings or word by word?"""
    allowed = ALPHABETICAL_SHARE * len(names)
    as_strings = sum(a > b for a, b in pairwise(names))
    return as_strings <= allowed or sum(a > b for a, b in pairwise(words)) <= allowed


def _place(word: str, depth: int) -> tuple[int, int, tuple[tuple[int, int | str], ...]]:
    """Where a module stands among its siblings: (rank, place in a block, name with its numbers as numbers)."""
    stem = word.lower().rstrip("0123456789").rstrip("_-")
    rank = RANKS.get(stem, MIDDLE)
    if depth <= 1:
        rank = AT_TOP.get(stem, rank)
    first, _, rest = stem.partition("_")
    places = IN_BLOCK if rest in ("proj", "lin") else IN_BLOCK_ALONE
    place = places.get(first if rest in ("proj", "lin") else stem, len(IN_BLOCK))
    return rank, place, natural_key(word)


def _has_numbers_out_of_order(words: Sequence[Sequence[str]]) -> bool:
    """Does a block with a smaller number follow one with a larger number, below the same parent?"""
    last: dict[tuple[str, ...], int] = {}
    for path in words:
        for depth, word in enumerate(path):
            if word.isdecimal():
                parent = tuple(path[:depth])
                number = int(word)
                if number < last.get(parent, 0):
                    return True
                last[parent] = number
    return False


class _Module:
    """A module in the tree of names."""

    __slots__ = ("children", "first", "first_block", "positions")

    def __init__(self, first: int) -> None:
        self.first = first  # position of the first name in it
        self.first_block = -1  # position of the first name in one of its numbered children
        self.children: dict[str, _Module] = {}
        self.positions: list[int] = []  # of the names that end here

    def sorted_children(self) -> list[_Module]:
        """The children by first appearance; numbered ones together, their numbers ascending."""
        if len(self.children) == 1:
            return list(self.children.values())
        block = self.first_block
        keys = {word: (block, int(word)) if word.isdecimal() else (m.first, 0) for word, m in self.children.items()}
        return [self.children[word] for word in sorted(keys, key=keys.__getitem__)]


def _sorted_by_block(words: Sequence[Sequence[str]]) -> list[int]:
    """Positions with the children of each module together, by first appearance, their numbers ascending."""
    root = _Module(0)
    for i, path in enumerate(words):
        module = root
        for word in path:
            child = module.children.get(word)
            if child is None:
                child = module.children[word] = _Module(i)
                if module.first_block < 0 and word.isdecimal():
                    module.first_block = i
            module = child
        module.positions.append(i)
    positions: list[int] = []
    pending = [root]
    while pending:
        module = pending.pop()
        positions += module.positions
        if module.children:
            pending += reversed(module.sorted_children())
    return positions


def _end_of_model(words: Sequence[str]) -> int:
    """−1 for the embedding of tokens, 1 for the head of a language model, else 0."""
    if not EMBEDDINGS.isdisjoint(words) and "decoder" not in words:
        return -1
    return int(not HEADS.isdisjoint(words) or words[0] == "output")
