"""A live model with examples and a loss, as an audit takes them: a user's own, or one that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.errors import UsageError
from layerscope.live.examples import Example, examples_of
from layerscope.live.huggingface_models import is_text_model, load_text_model, read_texts
from layerscope.live.losses import Loss
from layerscope.live.user_code import Forward

EXAMPLES, TOKENS = 40, 64


@dataclass(frozen=True)
class LiveData:
    """A model and two sets of examples: damage is predicted on the first and measured on the second."""

    model: Any
    examples: Sequence[Example]
    held_out: Sequence[Example]
    loss: Loss
    forward: Forward | None = None

    @property
    def unit(self) -> str:
        """What the damage is measured in."""
        return "½‖Δf‖² of the output" if self.loss.kind == "mse" else "nats per prediction"


def live_data(
    model: Any, data: Any, held_out: Any = None, *, loss: Any = "cross_entropy", forward: Forward | None = None,
    examples: int = EXAMPLES,
) -> LiveData:  # fmt: skip
    """Return a live model with its data.

    :param data: batches (x, y), inputs alone, or mappings of tensors; labels are not needed.
    :param held_out: data on which damage is measured; by default the second half of ``data`` if there is enough.
    :param examples: number of examples in each set.
    """
    first = examples_of(data, None if held_out is None else examples)
    if held_out is not None:
        second = examples_of(held_out, examples)
    else:
        middle = min(examples, max(1, len(first) // 2)) if len(first) > 1 else 1
        first, second = first[:middle], first[middle : middle + examples] or first[:middle]
    return LiveData(model, first, second, Loss.of(loss), forward)


def text_data(
    folder: Any, texts: Any, held_out: Any = None, *, tokenizer: Any = None, examples: int = EXAMPLES,
    tokens: int = TOKENS,
) -> LiveData:  # fmt: skip
    """Load a model of transformers, and make examples of text files.

    Without ``held_out``, the first three quarters of the text give the examples and the rest is held out.

    :raises UsageError: the target is no folder with a config.json and no GGUF file.
    """
    if not is_text_model(folder):
        raise UsageError(
            f"{folder}: not a folder of transformers (config.json) or a GGUF file; pass --model M:NET and --data "
            f"M:BATCHES"
        )
    text = read_texts(texts)
    cut = len(text) * 3 // 4
    first, second = (text[:cut], text[cut:]) if held_out is None else (text, read_texts(held_out))
    loaded = load_text_model(folder, tokenizer)
    return LiveData(
        loaded.model, loaded.examples(first, examples, tokens), loaded.examples(second, examples, tokens),
        Loss.of(loaded.loss), loaded.forward,
    )  # fmt: skip
