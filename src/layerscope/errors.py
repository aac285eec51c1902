"""Exceptions that layerscope raises on purpose.

    LayerscopeError
    ├── UsageError            an option, setting or filter is invalid      exit 2
    │   ├── UnknownName       no plugin, setting or column has that name
    │   ├── NoLayerMatches    the layer filter selects no layer
    │   └── OutputError       the result cannot be written to its destination
    ├── TargetError           the target cannot be analyzed                exit 3
    │   ├── TargetNotFound    nothing exists under that path, hub id or name
    │   ├── UnknownFormat     no source recognizes the target
    │   ├── Unreadable        the target is truncated, damaged or inconsistent
    │   ├── Refused           reading it would run code or leave its folder
    │   └── MissingExtra      an optional package is needed
    └── Absent                a metric or fit is undefined for a layer (handled inside the pipeline)

Each message states in one line what was asked, what was found and what would work.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

URL_WITH_SECRETS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://)([^/\s@'\"]*@)?(?P<place>[^\s?#'\"<>]*)"
    r"([?#][^\s'\"<>]*?(?=[:;,.)]*(\s|$|['\"<>])))?"
)
MIN_SECRET_CHARS = 4  # shorter words are too frequent to be replaced everywhere


def without_secrets(text: str) -> str:
    """Return a text with the user, password, query and fragment of every URL in it removed."""
    return URL_WITH_SECRETS.sub(r"\g<scheme>\g<place>", text) if "://" in text else text


def without_secrets_of(url: str, text: str) -> str:
    """Return a text with the user, password and query of one URL replaced, also where they are not part of a URL."""
    match = URL_WITH_SECRETS.match(url)
    if match is None:
        return without_secrets(text)
    secret = url.removeprefix(match["scheme"]).replace(match["place"], " ", 1)
    for word in sorted(re.split(r"[\s:@?&=#]+", secret), key=len, reverse=True):
        text = text.replace(word, "…") if len(word) >= MIN_SECRET_CHARS else text
    return without_secrets(text)


class LayerscopeError(Exception):
    """Base class of all layerscope errors; ``exit_code`` is the exit code of the command line."""

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(x) if isinstance(x, str) else x for x in args))


class LayerscopeWarning(UserWarning):
    """A problem that the user should know about and that does not stop the analysis."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(x) if isinstance(x, str) else x for x in args))


class UsageError(LayerscopeError):
    """An option, a setting or a filter is invalid."""


class UnknownName(UsageError):
    """No plugin, setting or column has that name."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"no {what} called {name!r}{did_you_mean(name, names)} Known: {', '.join(names)}")


class NoLayerMatches(UsageError):
    """The layer filter selects no layer."""


class OutputError(UsageError):
    """The result cannot be written to its destination."""


class TargetError(LayerscopeError):
    """The target cannot be analyzed."""

    exit_code = 3


class TargetNotFound(TargetError):
    """Nothing exists under that path, hub id or name."""


class UnknownFormat(TargetError):
    """No source recognizes the target."""


class Unreadable(TargetError):
    """The target is truncated, damaged or inconsistent."""


class Refused(TargetError):
    """Reading the target would run code or open files outside its folder."""


class MissingExtra(TargetError):
    """An optional package is needed, e.g. to read the target."""

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs the {extra!r} extra: pip install 'layerscope[{extra}]'")


class Absent(LayerscopeError):
    """A metric or fit is undefined for this layer; reports show the message as the reason.

    ``failed`` is False if nothing went wrong, e.g. for a layer that is identical to the base model's.
    """

    def __init__(self, reason: str, *, failed: bool = True) -> None:
        super().__init__(reason)
        self.failed = failed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or ``"."`` if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else "."
