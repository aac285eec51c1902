"""``layerscope landscape``: a group of commands, one file each."""

from __future__ import annotations

import click

from layerscope.cli.lazy_commands import LazyCommands


@click.group(cls=LazyCommands, prefix="landscape_")
def landscape() -> None:
    """Loss and accuracy between models: lines, planes, curves, and which of them share a basin."""
