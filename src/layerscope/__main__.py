"""``python -m layerscope`` and the ``layerscope`` command."""

import os
import sys


def main() -> None:
    """Prepare the process and run the command line; Ctrl-C while it is being imported ends it quietly too."""
    try:
        from layerscope.cli import process_state

        process_state.prepare_streams()
        problem = process_state.memory_problem()
        if problem:
            sys.stderr.write(f"layerscope: {problem}\n")
            sys.exit(3)
        process_state.end_on_shrunk_file()
        process_state.end_at_second_interrupt()
        if "--debug" not in sys.argv:
            process_state.show_own_warnings_only()
        from layerscope.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("layerscope: interrupted; nothing is still running\n")
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
