"""Print the packages of a module that pip must leave alone, as constraints; called by envs/common.sh.

A package that is older than setup.py admits is left out, with what it needs, so that a newer one is installed into the
virtual environment, which is found first. Only torch is never replaced: without a newer one, this fails.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

# Private to pip, but there wherever pip is: packaging itself need not be installed.
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BUILD = {"pip", "setuptools", "wheel"}


def add_replaceable(name: str, installed: dict[str, Distribution], replaceable: set[str]) -> None:
    """Add a package and all that it needs to ``replaceable``, torch excepted."""
    if name in installed and name != "torch" and name not in replaceable:
        replaceable.add(name)
        for need in map(Requirement, installed[name].requires or ()):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                add_replaceable(canonicalize_name(need.name), installed, replaceable)


def main(script: str, venv: str) -> None:
    """Print the constraints; name on standard error what is too old, and will be installed anew into ``venv``.

    ``script`` is the envs/MACHINE.sh that was called, for messages.
    """
    installed: dict[str, Distribution] = {}
    for package in distributions():  # the first one found is what is imported
        if package.metadata["Name"]:
            installed.setdefault(canonicalize_name(package.metadata["Name"]), package)
    required = (ROOT / "setup.py").read_text("utf-8").partition("REQUIRED = [")[2].partition("]")[0]
    replaceable: set[str] = set(BUILD)
    for need in map(Requirement, re.findall(r'"([^"]+)"', required)):
        name: str = canonicalize_name(need.name)
        if name not in installed or need.specifier.contains(installed[name].version, prereleases=True):
            continue
        old = f"{name} {installed[name].version} of the module is older than setup.py admits ({need})"
        if name == "torch":
            sys.exit(f"{script}: error: {old}, and it is never replaced; load a newer module (top of {script})")
        print(f"{script}: {old}; a newer one is installed into {venv}, and the module's stays", file=sys.stderr)
        add_replaceable(name, installed, replaceable)
    for name, package in sorted(installed.items()):
        if name not in replaceable:
            print(f"{name}=={package.version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
