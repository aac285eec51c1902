"""Install packages into the environment of this repository: with uv if it is there, otherwise with pip.

    .venv/bin/python scripts/install.py [options and requirements of `pip install`]

uv takes seconds where pip takes minutes. It gets the indexes, local folders and certificates that pip is configured
with, so that both install the same files, such as a CPU build of torch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OPTIONS = {"find-links": "--find-links", "index-url": "--index-url", "extra-index-url": "--extra-index-url"}


def main(words: list[str]) -> int:
    """Run uv; if it is not there or fails, run pip."""
    uv = shutil.which("uv", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv:
        places, environment = pip_configuration()
        command = [uv, "pip", "install", "--python", sys.executable, "--index-strategy", "unsafe-best-match", *places]
        if subprocess.run([*command, *words], env=environment).returncode == 0:
            return 0
        print("uv could not install them; trying pip", file=sys.stderr)
    return subprocess.run([*PIP, "install", "--no-compile", *words]).returncode


def pip_configuration() -> tuple[list[str], dict[str, str]]:
    """Return uv's options for the places in pip's configuration, and the environment with pip's certificates."""
    options, environment = [], dict(os.environ)
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name, values = key.rpartition(".")[2], value.strip("'\"").replace("\\n", " ").split()
        if name in OPTIONS:
            options += [word for place in values if exists(place) for word in (OPTIONS[name], place)]
        elif name == "cert" and values:
            environment.setdefault("SSL_CERT_FILE", values[0])
    return options, environment


def exists(place: str) -> bool:
    """Return whether a place can be there: anything but a local folder that is not there."""
    return "://" in place.removeprefix("file://") or Path(place.removeprefix("file://")).exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
