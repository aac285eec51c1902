"""Arguments of llama-quantize that give every tensor the format of a plan."""

from __future__ import annotations

import re
from collections import Counter

from layerscope.errors import UsageError
from layerscope.gguf_names import gguf_names_of
from layerscope.records.quantization import QuantizationPlan
from layerscope.sources.quantization.weight_formats import GGUF_TYPES, K_TYPES, PLAIN

TYPES = (*K_TYPES, *GGUF_TYPES, *PLAIN)
SPECIAL = {"token_embd.weight": "--token-embedding-type", "output.weight": "--output-tensor-type"}


def make(plan: QuantizationPlan) -> str:
    """Return arguments for ``llama-quantize``, one per line: ``--tensor-type PATTERN=TYPE`` with anchored patterns.

    The last line is the type of all other tensors, the most frequent one of the plan; the command reads
    ``llama-quantize $(cat FILE | grep -v '#') in.gguf out.gguf TYPE``.

    :raises UsageError: a format is not one of llama.cpp, or a tensor has no name in GGUF.
    """
    foreign = sorted({tensor.chosen for tensor in plan.tensors} - {*TYPES})
    if foreign:
        raise UsageError(
            f"--emit llama.cpp needs formats of llama.cpp, not {', '.join(foreign)}; pass --formats q4_k,…"
        )
    names = gguf_names_of([tensor.name for tensor in plan.tensors])
    missing = [tensor.name for tensor in plan.tensors if tensor.name not in names]
    if missing:
        raise UsageError(
            f"{len(missing)} tensors have no name in GGUF, the first {missing[0][:80]}; leave them out with --layers"
        )
    usual = Counter(tensor.chosen for tensor in plan.tensors).most_common(1)[0][0]
    lines = [f"# llama-quantize $(grep -v '^#' THIS_FILE) in.gguf out.gguf {usual.upper()}"]
    for tensor in plan.tensors:
        name = names[tensor.name]
        if name in SPECIAL:
            lines.append(f"{SPECIAL[name]} {tensor.chosen}")
        else:
            lines.append(f"--tensor-type ^{re.escape(name)}$={tensor.chosen}")
    return "\n".join(lines) + "\n"
