"""What each tensor of a checkpoint is, if it is not a weight: decided from structure and names, without reading values.

Optimizer state, second copies of the model (EMA, teachers), buffers, lookup tables and adapter factors are listed with
the reason and never analyzed as weights. The module imports nothing from the package, so that the child process that
reads HDF5 files starts quickly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

# Keys on the path to an array: at any level in a pytree, a dict or a Flax file, at the first level in Orbax.
JAX_OPTIMIZER_KEYS = frozenset({"opt_state"})
KERAS_OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")  # top-level groups of an HDF5 file
TORCH_OPTIMIZER_PREFIX = "optim"  # of a key in a pickled checkpoint, unless its value is a tensor
TORCH_OPTIMIZER_TABLE = frozenset({"state", "param_groups"})  # keys of the state dict of a torch optimizer
DCP_OPTIMIZER_PREFIXES = ("optim", "optimizer")  # of a full name in a distributed checkpoint
TENSORFLOW_OPTIMIZER_PREFIXES = ("optimizer/", "_optimizer/")  # of a key in a tensor bundle
TENSORFLOW_OPTIMIZER_ATTRIBUTE = "/.OPTIMIZER"  # anywhere in such a key: a slot variable stored next to its variable
TENSORFLOW_OPTIMIZER_NAME = re.compile(  # names of slot variables and counters in the program
    r"(.*/)?(Adam|Adam_1|Momentum|RMSProp|RMSProp_1|ExponentialMovingAverage|Adagrad|Adadelta|Ftrl|Ftrl_1"
    r"|adam_[mv]|beta[12]_power|global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)(:0)?$",
    re.DOTALL,
)

SEPARATORS = re.compile(r"[./]")
MAX_WORDS = 24  # of a name that are looked at
MAX_NAME_CHARS = 2_000
OPTIMIZER_LEAVES = frozenset((
    "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "max_exp_avg_sq", "exp_avg_diff", "exp_inf",
    "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "adam_m", "adam_v",
))  # fmt: skip
MOMENTS = ("mu", "nu")  # of Optax: two trees with the leaves of the parameters
MOMENTS_SET = frozenset(MOMENTS)
COPY_WORD = re.compile(
    r"(.*_)?(ema|teacher|averaged|swa|shadow|momentum_(encoder|model|net)|target_(net|network|encoder|model)|encoder_k)"
    r"(_.*)?|moving_average",
)
MIN_COPY_SHARE = 0.9  # share of a copy's tensors that must have an original
BUFFER_WORDS = frozenset((
    "queue", "pe", "pos_enc", "causal_mask", "attn_mask", "attention_mask", "mask", "masked_bias", "tril",
    "inv_freq", "freqs_cis", "cos_cached", "sin_cached", "anchors", "relative_position_index",
    "relative_coords_table", "position_ids", "token_type_ids",
))  # fmt: skip
FACTOR_HINTS = ("lora", "hada_", "lokr_", "oft_", "dora_")  # one of them is in every name that FACTOR matches
STATE_SPACE_WORDS = frozenset({"A_log", "A_logs"})
FACTOR = re.compile(
    r"lora_(up|down|mid|[ABab])|lora_embedding_[AB]|hada_[wt][12](_[ab])?|lokr_[wt][12](_[ab])?|oft_(blocks|diag)|"
    r"dora_scale"
)

WEIGHT_WORD = re.compile(  # what the last word of a weight's name may be
    r"(.*_)?(weights?|kernel|matrix|proj(ection)?\d*|embed\w*|emb|embd|token|lm_head|head|fc\d*|w\d*|w[a-z]|[a-zA-Z]|qkv)"
    r"(_?(q|k|v|ih|hh|hr)(_l\d+)?(_reverse)?)?|query_key_value|(gate|up|down)(_up)?|array|tensor|lora",
    re.IGNORECASE,
)

FLAT_PARAMETER = re.compile(r"_?flat_param(eter)?(_\d+)?")
FLAT_REASON = (
    "a flat parameter of FSDP: many tensors in one vector, without their shapes; save the model with "
    "StateDictType.FULL_STATE_DICT, or pass a checkpoint of torch.distributed.checkpoint"
)

Reason = tuple[str, str]  # (kind, reason), as a row that is skipped has them


def not_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Reason]:
    """Name → (kind, reason) of the tensors that are no weights; names that are not returned may be weights.

    :param shapes: shape of every tensor of the model, by name.
    """
    words = {name: name[:MAX_NAME_CHARS].replace("/", ".").split(".", MAX_WORDS) for name in shapes}
    found: dict[str, Reason] = dict(_optimizer_state(words))
    rest = {name: parts for name, parts in words.items() if name not in found}
    for name, parts in rest.items():
        if FLAT_PARAMETER.fullmatch(parts[-1]):
            found[name] = "flat", FLAT_REASON
        if len(shapes[name]) < 2:
            continue
        if parts[-1] in BUFFER_WORDS:
            found[name] = "buffer", f"a buffer by its name ({parts[-1]}): not learned"
        elif parts[-1] in STATE_SPACE_WORDS:
            found[name] = "state space", "a state-space parameter by its name: it multiplies no inputs"
        elif any(hint in name for hint in FACTOR_HINTS) and any(FACTOR.fullmatch(word) for word in parts[-3:]):
            found[name] = (
                "factor",
                "an adapter factor by its name, not a weight; merge the adapter into its model and pass that",
            )
    found.update(_adapted_bases(words))
    found.update(_second_copies({name: parts for name, parts in rest.items() if name not in found}, shapes))
    return found


def without_weight_names(names: Iterable[str]) -> set[str]:
    """Return the names whose last word is not one that weights have."""
    is_weight: dict[str, bool] = {}  # by last word: thousands of names share a few
    others = set()
    for name in names:
        word = name[-MAX_NAME_CHARS:].replace("/", ".").rpartition(".")[2]
        if word not in is_weight:
            is_weight[word] = WEIGHT_WORD.fullmatch(word) is not None
        if not is_weight[word]:
            others.add(name)
    return others


def is_optimizer_table(table: Mapping[object, object]) -> bool:
    """Is it the state dict of a torch optimizer?"""
    return table.keys() >= TORCH_OPTIMIZER_TABLE


def _optimizer_state(words: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Reason]]:
    """Tensors whose names are those of optimizer state: Adam's moments, momentum buffers, Optax's two trees."""
    folders = {tuple(parts[:-1]) for parts in words.values() if parts[-1] in OPTIMIZER_LEAVES}
    with_moments = {name for name, parts in words.items() if not MOMENTS_SET.isdisjoint(parts)}
    if not folders and not with_moments:
        return
    paths = {tuple(parts) for parts in words.values()} if with_moments else set()
    for name, parts in words.items():
        in_state = len(parts) > 2 and parts[-2].isdecimal() and tuple(parts[:-1]) in folders
        moments = [i for i, word in enumerate(parts) if word in MOMENTS] if name in with_moments else []
        has_twin = any(
            (*parts[:i], MOMENTS[1 - MOMENTS.index(parts[i])], *parts[i + 1 :]) in paths for i in moments[:1]
        )
        if parts[-1] in OPTIMIZER_LEAVES or in_state or (has_twin and len(parts) > 1):
            yield name, ("optimizer", "optimizer state by its name, not a weight")


def _adapted_bases(words: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Reason]]:
    """Weights below ``base_layer``, as PEFT calls the original layer, with adapter factors beside them."""
    if not any("base_layer" in parts for parts in words.values()):
        return
    adapted = {tuple(parts[:i]) for parts in words.values() for i, word in enumerate(parts) if FACTOR.fullmatch(word)}
    reason = "the base of an adapted weight, whose scale the file does not state; save model.merge_and_unload()"
    for name, parts in words.items():
        if "base_layer" in parts and tuple(parts[: parts.index("base_layer")]) in adapted:
            yield name, ("factor", reason)


def _second_copies(
    words: Mapping[str, Sequence[str]], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Reason]]:
    """Tensors below a module called ema, teacher, … whose originals of the same shape are in the file too."""
    copies: dict[tuple[str, ...], list[str]] = {}
    copy_words = {word for word in {w for parts in words.values() for w in parts} if COPY_WORD.fullmatch(word)}
    if not copy_words:
        return
    for name, parts in words.items():
        place = max((i for i, word in enumerate(parts[:-1]) if word in copy_words), default=None)
        if place is not None:
            copies.setdefault(tuple(parts[: place + 1]), []).append(name)
    if not copies:
        return
    inside = {name for names in copies.values() for name in names}
    endings: set[tuple[str, tuple[int, ...]]] = set()
    for name, parts in words.items():
        if name not in inside:
            endings.update(("".join(parts[i:]), shapes[name]) for i in range(len(parts)))
    for place_words, names in copies.items():
        rests = {name: words[name][len(place_words) :] for name in names}
        rests = {name: rest[rest[0] == "module" and len(rest) > 1 :] for name, rest in rests.items()}  # a wrapper's
        if all(len(rest) == 1 and rest[0].isdecimal() for rest in rests.values()):  # a list of shadow parameters
            others = {shapes[name] for name in words if name not in inside}
            known = [name for name in names if shapes[name] in others]
        else:
            known = [name for name in names if ("".join(rests[name]), shapes[name]) in endings]  # LDM omits the dots
        if known and len(known) >= MIN_COPY_SHARE * len(names):
            prefix = ".".join(place_words)
            reason = f"a second copy of the model, by its names and shapes; analyze it alone with --select {prefix}"
            yield from ((name, ("copy", reason)) for name in names)
