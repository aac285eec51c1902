"""Import user code that is named as ``package.module:name`` on the command line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from layerscope.errors import LayerscopeError, TargetNotFound, Unreadable, did_you_mean
from layerscope.live.user_code import describe_user_error


def import_object(text: str) -> Any:
    """Import the object that ``package.module:name`` names, from the working folder or the environment.

    :raises TargetNotFound: there is no such module or name.
    :raises Unreadable: the module raises an exception when it is imported.
    """
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise TargetNotFound(f"{text!r} is not the name of a Python object; write package.module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            raise TargetNotFound(
                f"{text}: there is no module {error.name!r} in the working folder or the environment"
            ) from None
        raise Unreadable(f"{text}: importing {module_name} failed: {describe_user_error(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # user code may raise anything; sys.exit(0) would look like success
        raise Unreadable(f"{text}: importing {module_name} failed: {describe_user_error(error)}") from error
    if not hasattr(module, name):
        raise TargetNotFound(f"{module_name} has no {name!r}{did_you_mean(name, vars(module))}")
    return getattr(module, name)


def call_or_get(text: str) -> Any:
    """Import an object; if it is a function, call it and return its result."""
    value = import_object(text)
    if not (isinstance(value, type) or type(value).__name__ in ("function", "builtin_function_or_method", "partial")):
        return value
    try:
        return value()
    except (LayerscopeError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Unreadable(f"{text}() failed: {describe_user_error(error)}") from error
