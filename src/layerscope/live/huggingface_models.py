"""Models of Hugging Face's transformers as live models: from a local folder or a GGUF file, with their tokenizer.

Nothing is downloaded, and no code of the folder is executed. What the outputs mean comes from the architecture:
language models and classifiers predict classes ("cross_entropy"); encoders give an embedding of length 1 ("mse", so
that ½‖Δf‖² is 1 − cosine).
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.errors import MissingExtra, TargetNotFound, Unreadable, UsageError
from layerscope.live.examples import Example
from layerscope.live.user_code import Forward, translate_errors

HEADS = {  # ending of an architecture's name → class that loads it
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
ENCODER = "AutoModel"
MAX_TEXT_BYTES = 1 << 28
MAX_CONFIG_BYTES = 1 << 24
MIN_TEXT_CHARS = 20  # of a line that counts as a text


@dataclass(frozen=True)
class TextModel:
    """A live model, its tokenizer, and the loss that defines the distribution of its outputs."""

    model: Any
    tokenizer: Any
    loss: str  # "cross_entropy" or "mse"
    forward: Forward
    is_causal: bool

    def examples(self, texts: str, count: int, tokens: int) -> list[Example]:
        """Return examples spread evenly over a text: windows of tokens for a language model, lines for others.

        :raises UsageError: the text is too short.
        """
        if self.is_causal:
            return self._windows(texts, count, tokens)
        lines = [line.strip() for line in texts.splitlines() if len(line.strip()) >= MIN_TEXT_CHARS]
        if not lines:
            raise UsageError(f"the text has no line of {MIN_TEXT_CHARS} characters or more; pass one text per line")
        with translate_errors("the tokenizer"):
            encoded = [self.tokenizer(line, truncation=True, max_length=tokens, return_tensors="pt")
                       for line in _spread(lines, count)]  # fmt: skip
        return [Example(dict(each)) for each in encoded]

    def _windows(self, texts: str, count: int, tokens: int) -> list[Example]:
        import torch

        with translate_errors("the tokenizer"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        size = getattr(self.model.config, "vocab_size", None)
        if size is not None and codes and max(codes) >= size:
            raise UsageError(
                f"the tokenizer gives token {max(codes)}, but the model has {size} tokens; pass the model's own "
                "tokenizer"
            )
        starts = range(0, len(codes) - tokens, tokens)
        if not len(starts):
            raise UsageError(f"the text has {len(codes)} tokens, fewer than one window of {tokens}; pass a longer text")
        first = getattr(self.tokenizer, "bos_token_id", None)
        lead = [] if first is None else [first]
        windows = [codes[start : start + tokens + 1] for start in _spread(list(starts), count)]
        return [
            Example({"input_ids": torch.tensor([lead + w[:-1]])}, torch.tensor([w[1 - len(lead) :] if lead else w[1:]]))
            for w in windows
        ]


def _spread(items: list[Any], count: int) -> list[Any]:
    """Return ``count`` items at equal distances, or all of them."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def is_text_model(path: Any) -> bool:
    """Return whether a path is a folder with a transformers configuration and weights, or a GGUF file."""
    file = Path(str(path))
    return bool(file.is_file() if file.suffix == ".gguf" else (file / "config.json").is_file())


def load_text_model(path: Any, tokenizer: Any = None) -> TextModel:
    """Load a model from a folder or a GGUF file, in float32.

    :param tokenizer: folder of the tokenizer, if it is not with the model.
    :raises MissingExtra: transformers is not installed.
    :raises Unreadable: transformers cannot load it.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtra("a Hugging Face folder as a live model", "text") from None
    path = Path(str(path))
    if not path.exists():
        raise TargetNotFound(f"{path} does not exist; pass a folder or a GGUF file")
    is_gguf = path.suffix == ".gguf"
    folder, options = (path.parent, {"gguf_file": path.name}) if is_gguf else (path, {})
    architecture = "ForCausalLM" if is_gguf else _architecture(path)
    head = next((value for ending, value in HEADS.items() if architecture.endswith(ending)), ENCODER)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    common = {"local_files_only": True, "trust_remote_code": False}
    # its progress bars would mix with ours
    with translate_errors(f"{path}: transformers"), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        model = getattr(transformers, head).from_pretrained(folder, dtype="float32", **common, **options)
        own = {} if tokenizer is not None else options
        words = transformers.AutoTokenizer.from_pretrained(tokenizer or folder, **common, **own)
    model.eval()
    if head == ENCODER:
        return TextModel(model, words, "mse", _embedding(path), is_causal=False)
    return TextModel(model, words, "cross_entropy", _logits, is_causal=head == "AutoModelForCausalLM")


def read_texts(path: Any) -> str:
    """Read a text file in UTF-8.

    :raises Unreadable: it is no text, is empty, or is larger than 256 MiB.
    """
    path = Path(str(path))
    if not path.is_file():
        raise TargetNotFound(f"{path} does not exist; pass a text file")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise Unreadable(f"{path}: larger than {MAX_TEXT_BYTES >> 20} MiB; a few hundred lines are enough")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{path}: not a text in UTF-8; pass a text file") from None
    if not text.strip():
        raise Unreadable(f"{path}: the file is empty; pass a text file")
    return str(text)


def _architecture(folder: Path) -> str:
    file = folder / "config.json"
    if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
        raise Unreadable(f"{folder}: no config.json of transformers; pass the folder of a model, or --model M:NET")
    try:
        names = json.loads(file.read_text("utf-8")).get("architectures")
    except (ValueError, AttributeError, RecursionError):
        raise Unreadable(f"{file}: not the JSON of a configuration; pass the folder of a model") from None
    return str(names[0]) if isinstance(names, list) and names else ""


def _logits(model: Any, inputs: Any) -> Any:
    return model(**inputs).logits


def _embedding(folder: Path) -> Callable[[Any, Any], Any]:
    """Return a function that gives the embedding of length 1, pooled as the folder of sentence-transformers says."""
    uses_first = False  # the mean of the tokens, as sentence-transformers takes without that file
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text("utf-8"))
        uses_first = bool(pooling["pooling_mode_cls_token"])

    def forward(model: Any, inputs: Any) -> Any:
        hidden = model(**inputs).last_hidden_state
        pooled = hidden[:, 0] if uses_first else hidden.mean(1)  # one text at a time, without padding
        return pooled / pooled.norm(dim=-1, keepdim=True)

    return forward
