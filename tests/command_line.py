"""The command line as a user runs it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "layerscope", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
