"""A click group that imports a command from ``layerscope.cli.commands`` only when that command runs."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

import click

from layerscope.cli import commands


class LazyCommands(click.Group):
    """A group of all commands whose file name starts with ``prefix``; the rest of the name is the command's name.

    Underscores in it are dashes in the command: ``merge_check.py`` is ``layerscope merge-check``.
    """

    def __init__(self, *args: Any, prefix: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self._prefix = prefix

    @functools.cached_property
    def _command_names(self) -> list[str]:
        files = [info.name for info in pkgutil.iter_modules(commands.__path__)]
        in_group = [name.removeprefix(self._prefix) for name in files if name.startswith(self._prefix)]
        # landscape_line belongs to the group `landscape`, not to the top-level group
        own = (name for name in in_group if not any(name.startswith(f"{group}_") for group in in_group))
        return sorted(name.replace("_", "-") for name in own)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._command_names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._command_names:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"layerscope.cli.commands.{self._prefix}{name}")
        command: click.Command = getattr(module, name)
        return command
