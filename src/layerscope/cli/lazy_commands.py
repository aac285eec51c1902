"""A group whose commands are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click


class LazyCommands(click.Group):
    """Each command is the function of its name in ``layerscope.cli.commands``, in a file of that name."""

    def __init__(self, *args: Any, names: Sequence[str], prefix: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self._names, self._prefix = tuple(sorted(names)), prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._names:
            return None
        module = importlib.import_module(f"layerscope.cli.commands.{self._prefix}{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command
