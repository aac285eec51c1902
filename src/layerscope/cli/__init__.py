"""The command line: one file per command in ``commands``; ``main`` turns errors into messages and exit codes."""
