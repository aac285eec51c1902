"""Groups whose commands are files of ``layerscope.cli.commands``, imported when they are asked for."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

import click

from layerscope.cli import commands


class LazyCommands(click.Group):
    """The commands whose files begin with ``prefix``: each is a function of the rest of the name."""

    def __init__(self, *args: Any, prefix: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self._prefix = prefix

    @functools.cached_property
    def _command_names(self) -> list[str]:
        files = [info.name for info in pkgutil.iter_modules(commands.__path__)]
        in_group = [name.removeprefix(self._prefix) for name in files if name.startswith(self._prefix)]
        # landscape_line is a command of the group landscape, not of the group above it
        return sorted(name for name in in_group if not any(name.startswith(f"{group}_") for group in in_group))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._command_names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._command_names:
            return None
        module = importlib.import_module(f"layerscope.cli.commands.{self._prefix}{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command
