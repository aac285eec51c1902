"""The ``layerscope`` command: parse the options, call the library, print the result, return an exit code.

Results go to stdout, progress and messages to stderr. Exit codes: 0 success, 1 findings at or above --fail-on,
2 wrong usage, 3 target unreadable or refused, 4 finished but some layers failed, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import traceback

import click

from layerscope.cli.lazy_commands import LazyCommands
from layerscope.cli.shell_words import in_shell_words
from layerscope.errors import LayerscopeError, UnknownName, UsageError, without_secrets

INTERRUPTED = 130
NO_MEMORY = "not enough memory; use --jobs 1, or --max-cost GFLOP to skip the largest layers"


class Commands(LazyCommands):
    """The top-level group; suggests ``layerscope analyze`` when a target stands where a command belongs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)
        if "://" in name or os.path.exists(name):
            raise UsageError(f"{name} is not a command; did you mean: layerscope analyze {shlex.quote(name)}")
        raise UnknownName("command", name, self.list_commands(ctx))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="layerscope")
@click.option("--debug", is_flag=True, help="Show the full Python traceback of an error.")
def cli(debug: bool) -> None:
    """Find problems in a neural network, layer by layer, from its weights alone.

    TARGET is a model file or folder (safetensors, torch, GGUF, Keras, ONNX, TensorFlow, Flax, …), a saved report, a
    Hugging Face model id in the local cache, or a storage URL such as s3://bucket/model.

    \b
    First steps:
      layerscope demo
      layerscope analyze model.safetensors
    """


def main() -> None:
    """Run the command line and exit; every error becomes one message and an exit code here."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    sys.warnoptions.append("ignore:resource_tracker")  # workers that are interrupted while they start
    try:
        with cli.make_context("layerscope", sys.argv[1:] or ["--help"]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_request:
        code = exit_request.exit_code
    except click.ClickException as error:
        code = _print_error(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        code = _print_error("interrupted; all work has stopped", INTERRUPTED)
        sys.stdout.flush()
        if any(thread.daemon for thread in threading.enumerate()):
            os._exit(code)  # a thread inside LAPACK would crash when the interpreter unloads the library
    except LayerscopeError as error:
        if debug:
            traceback.print_exc()
        code = _print_error(in_shell_words(str(error), cli, sys.argv[1:]), error.exit_code)
    except OSError as error:
        what = "cannot write to stdout" if error.filename is None else str(error.filename)
        code = _print_error(f"{what}: {error.strerror or error}", 2 if error.filename is None else 3)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        code = _print_error(NO_MEMORY, 3)
    except ImportError as error:
        if debug or "failed to map segment" not in str(error):
            raise
        code = _print_error(NO_MEMORY, 3)
    except Exception as error:
        if debug:
            raise
        code = _print_error(
            f"internal error, please report it: {type(error).__name__}: {error} (--debug shows the traceback)", 70
        )
    sys.exit(code)


def _print_error(message: str, code: int) -> int:
    from layerscope.text import printable

    print(f"layerscope: {printable(without_secrets(message), 500)}", file=sys.stderr)
    return code
