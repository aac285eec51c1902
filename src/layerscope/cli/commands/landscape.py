"""``layerscope landscape``: the group of commands that evaluate the loss between models."""

from __future__ import annotations

import click

from layerscope.cli.lazy_commands import LazyCommands


@click.group(cls=LazyCommands, prefix="landscape_")
def landscape() -> None:
    """Evaluate loss and accuracy between and around models.

    Each command runs your own PyTorch model on your data: PACKAGE.MODULE:FUNCTION builds one model of the architecture,
    and the MODELs are files with weights for it.

    \b
    Example:
      layerscope landscape basins mine:build a.pt b.pt c.pt --data mine:test
    """
