"""The command line: one file per command in ``commands``; ``main`` has the seam from errors to exit codes."""
