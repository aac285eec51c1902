"""Options of commands that run a live model on examples: a text file, or the user's own model and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from layerscope.audits.live_data import LiveData

OPTIONS = (
    click.option(
        "--data",
        metavar="TEXTS|M:BATCHES",
        help="Unlabeled examples: a text file for a model of transformers, or with --model a function that returns "
        "batches.",
    ),
    click.option(
        "--held-out",
        metavar="TEXTS|M:BATCHES",
        help="Examples on which damage is measured.  [default: the last part of --data]",
    ),
    click.option(
        "--model",
        metavar="M:NET",
        help="Function of a Python module that returns the original PyTorch model; not needed for models of "
        "transformers.",
    ),
    click.option("--tokenizer", metavar="FOLDER", help="Folder of the tokenizer, if it is not with the model."),
    click.option(
        "--loss",
        default="cross_entropy",
        show_default=True,
        metavar="NAME|M:LOSS",
        help="With --model, what the outputs are: cross_entropy (logits) or mse (real numbers).",
    ),
    click.option(
        "--forward", metavar="M:FUNCTION", help="With --model, a function (model, x) that returns the outputs."
    ),
    click.option(
        "--examples",
        type=click.IntRange(min=2),
        default=40,
        show_default=True,
        metavar="N",
        help="Number of examples for the prediction, and again for measuring.",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(min=4),
        default=64,
        show_default=True,
        metavar="N",
        help="Tokens of an example, for text files.",
    ),
    click.option(
        "--draws",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        metavar="N",
        help="Labels drawn from the model's own prediction for each example; each is one backward pass.",
    ),
)


def live_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def live_of(target: str, options: dict[str, Any]) -> LiveData | None:
    """Return the live model and examples that the options name; None without --data.

    :param target: the original model, loaded by transformers unless --model is given.
    """
    from layerscope.audits.live_data import live_data, text_data
    from layerscope.cli.user_objects import call_or_get

    if options["data"] is None:
        if options["model"] or options["held_out"]:
            raise click.UsageError("--model and --held-out need --data: add examples, e.g. --data texts.txt")
        return None
    if options["model"] is None:
        if ":" in options["data"] and not Path(options["data"]).exists():
            raise click.UsageError("--data M:BATCHES needs --model M:NET; for a model of transformers give a text file")
        return text_data(
            target, options["data"], options["held_out"], tokenizer=options["tokenizer"], examples=options["examples"],
            tokens=options["tokens"],
        )  # fmt: skip
    loss = call_or_get(options["loss"]) if ":" in options["loss"] else options["loss"]
    held_out = call_or_get(options["held_out"]) if options["held_out"] else None
    forward = None
    if options["forward"]:
        from layerscope.cli.user_objects import import_object

        forward = import_object(options["forward"])
    return live_data(
        call_or_get(options["model"]), call_or_get(options["data"]), held_out, loss=loss, forward=forward,
        examples=options["examples"],
    )  # fmt: skip
