"""Every error layerscope raises on purpose.

    LayerscopeError
    ├── UsageError            the call is wrong                            exit 2
    │   ├── UnknownName       no plugin, setting or column of that name
    │   ├── NoLayerMatches    the layer filter selects nothing
    │   └── OutputError       the result cannot be written where asked
    ├── TargetError           the target is at fault                       exit 3
    │   ├── TargetNotFound    there is nothing at that path, hub id or name
    │   ├── UnknownFormat     no source recognises it
    │   ├── Unreadable        truncated, inconsistent or lying about itself
    │   ├── Refused           reading it would run code or leave its folder
    │   └── MissingExtra      an optional package is needed to read it
    └── Absent                a metric or fit is undefined here (never leaves the pipeline)

Each message says what was asked, what was found and what is possible, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LayerscopeError(Exception):
    """Base of every deliberate error; ``exit_code`` is what the command line returns."""

    exit_code = 2


class LayerscopeWarning(UserWarning):
    """Something that a user should see, and that ends nothing."""


class UsageError(LayerscopeError):
    """The call is wrong: an option, a setting or a filter."""


class UnknownName(UsageError):
    """No plugin, setting or column has that name."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"no {what} called {name!r}{did_you_mean(name, names)} Known: {', '.join(names)}")


class NoLayerMatches(UsageError):
    """The layer filter selects nothing."""


class OutputError(UsageError):
    """The result cannot be written where it was asked to go."""


class TargetError(LayerscopeError):
    """The target cannot be analysed."""

    exit_code = 3


class TargetNotFound(TargetError):
    """There is nothing at that path, hub id or name."""


class UnknownFormat(TargetError):
    """No source recognises the target."""


class Unreadable(TargetError):
    """The target is truncated, inconsistent or lies about itself."""


class Refused(TargetError):
    """Reading the target would run code or leave its folder."""


class MissingExtra(TargetError):
    """An optional package is needed to read the target."""

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs the {extra!r} extra: pip install 'layerscope[{extra}]'")


class Absent(LayerscopeError):
    """A metric or fit is undefined for this layer; the message is the reason shown.

    ``failed`` is False where nothing went wrong: a layer that is the same as in the base model, say.
    """

    def __init__(self, reason: str, *, failed: bool = True) -> None:
        super().__init__(reason)
        self.failed = failed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, else ``"."``."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else "."
