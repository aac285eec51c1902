"""Create a virtual environment with pip, even if Debian's python3-venv is not installed.

Without python3-venv, Debian's python3 has no ensurepip. In this case one pip wheel is downloaded from PyPI and checked
against a pinned SHA-256 before it runs.
"""

import hashlib
import importlib.util
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

PIP_VERSION = "25.0.1"
PIP_SHA256 = "c46efd13b6aa8279f33f2864459c8ce587ea6a1a59ee20de055868d8f7688f7f"


def main(folder: Path) -> None:
    """Create the environment unless it already exists and works."""
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    has_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(folder, with_pip=has_pip, clear=folder.exists(), symlinks=True)
    if not has_pip:
        install_pip(python)
    # uv is much faster than pip; scripts/install.py takes pip if it cannot be had
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", "uv"], capture_output=True)


def install_pip(python: Path) -> None:
    """Install pip by running a pinned pip wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = Path(scratch) / f"pip-{PIP_VERSION}-py3-none-any.whl"
        wheel.write_bytes(fetch_pip())
        environment = {**os.environ, "PYTHONPATH": str(wheel)}
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, env=environment)


def fetch_pip() -> bytes:
    """Download the pinned wheel and check its hash, which also protects machines without CA certificates."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        context = ssl._create_unverified_context()
    with urllib.request.urlopen("https://pypi.org/simple/pip/", context=context) as answer:
        page = answer.read().decode()
    url = re.search(rf'href="([^"#]*/pip-{re.escape(PIP_VERSION)}-py3-none-any\.whl)', page).group(1)
    with urllib.request.urlopen(url, context=context) as answer:
        wheel = answer.read()
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        sys.exit(f"pip {PIP_VERSION} from PyPI does not match the pinned SHA-256; nothing was installed")
    return wheel


if __name__ == "__main__":
    main(Path(sys.argv[1]))
