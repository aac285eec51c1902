"""``layerscope quantize``: the group of commands about quantized models."""

from __future__ import annotations

import click

from layerscope.cli.lazy_commands import LazyCommands


@click.group(cls=LazyCommands, prefix="quantize_")
def quantize() -> None:
    """Tell which tensors quantization hurts, and plan formats that hurt less.

    The damage of a tensor cannot be seen in weights. 40 unlabeled examples and a few backward passes predict it: a
    text file for models of transformers (a folder or a GGUF file), or your own model and data.

    \b
    Examples:
      layerscope quantize audit model.gguf --base folder/ --data texts.txt
      layerscope quantize plan folder/ --data texts.txt --bits 4.5 --emit llama.cpp
    """
