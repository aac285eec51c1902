"""Turn the Python arguments that an error of the library names into the options that the user typed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

ARGUMENT = re.compile(r"(?<![\w.\"'-])([a-z][a-z_]*)=(True\b|(?=\S)|)")


def in_shell_words(message: str, group: click.Group, words: Sequence[str]) -> str:
    """Rewrite ``partial=True`` as ``--partial`` and ``span=(1, 0)`` as ``--span (1, 0)``, for options of the command.

    :param words: the words of the command line, which say what the command is.
    """
    options = _option_names(group, words)

    def rewrite(match: re.Match[str]) -> str:
        option = options.get(match[1])
        if option is None:
            return match[0]
        takes_value = match[2] != "True" and match.end() < len(message) and message[match.end()] not in " ,;.)"
        return f"{option} " if takes_value else option

    return ARGUMENT.sub(rewrite, message)


def _option_names(group: click.Group, words: Sequence[str]) -> dict[str, str]:
    """Parameter name → option, e.g. min_evals → --min-evals, of the command that the words call."""
    command: click.Command = group
    context = click.Context(group)
    for word in words:
        child = command.get_command(context, word) if isinstance(command, click.Group) else None
        if child is not None:
            command = child
    options: dict[str, str] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            longest = max(parameter.opts, key=len)
            options |= {parameter.name.rstrip("_"): longest, longest.lstrip("-").replace("-", "_"): longest}
    return options
