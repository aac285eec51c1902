"""``python -m layerscope`` and the ``layerscope`` command."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it quietly too."""
    try:
        from layerscope.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("layerscope: interrupted; nothing is still running\n")
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
