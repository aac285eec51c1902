"""Objects of user code that are named as ``package.module:name`` on the command line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from layerscope.errors import LayerscopeError, TargetNotFound, Unreadable, did_you_mean


def import_object(text: str) -> Any:
    """The object that ``package.module:name`` names, the working folder being importable.

    :raises TargetNotFound: no such module or name.
    :raises Unreadable: importing it fails.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise TargetNotFound(f"{text!r} names no object: write package.module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".")[0] == error.name.split(".")[0]:
            raise TargetNotFound(f"there is no module {error.name!r} here or in the environment ({text})") from None
        raise Unreadable(f"{text}: importing {module} fails: {error}") from error
    except Exception as error:  # whatever a stranger's module raises is told in a line
        raise Unreadable(f"{text}: importing {module} fails: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        raise TargetNotFound(f"{module} has no {name!r}{did_you_mean(name, vars(found))}")
    return getattr(found, name)


def call_or_get(text: str) -> Any:
    """What a named function returns, or the named object itself where it is no function."""
    found = import_object(text)
    if not (isinstance(found, type) or type(found).__name__ in ("function", "builtin_function_or_method", "partial")):
        return found
    try:
        return found()
    except LayerscopeError:
        raise
    except Exception as error:
        raise Unreadable(f"{text}() fails: {type(error).__name__}: {error}") from error
