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
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise TargetNotFound(f"{text!r} names no object: write package.module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            raise TargetNotFound(f"there is no module {error.name!r} here or in the environment ({text})") from None
        raise Unreadable(f"{text}: importing {module_name} fails: {error}") from error
    except Exception as error:  # whatever a stranger's module raises is told in a line
        raise Unreadable(f"{text}: importing {module_name} fails: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise TargetNotFound(f"{module_name} has no {name!r}{did_you_mean(name, vars(module))}")
    return getattr(module, name)


def call_or_get(text: str) -> Any:
    """What a named function returns, or the named object itself where it is no function."""
    value = import_object(text)
    if not (isinstance(value, type) or type(value).__name__ in ("function", "builtin_function_or_method", "partial")):
        return value
    try:
        return value()
    except LayerscopeError:
        raise
    except Exception as error:
        raise Unreadable(f"{text}() fails: {type(error).__name__}: {error}") from error
