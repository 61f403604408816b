"""Metadata of hydragnn_hpc, in one place; pyproject.toml configures tools only."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
# Read, not imported: importing the package would need its dependencies.
VERSION = re.search(r'^__version__ = "([^"]+)"$', (HERE / "hydragnn_hpc/__init__.py").read_text("utf-8"), re.M)[1]

# Lower bounds are the oldest versions that the tests pass with, pinned in envs/oldest.lock and run by every
# 'tests/run.sh', because computing centres bring versions of their own. envs/local.lock pins the newest.
REQUIRED = [
    "torch>=2.10.0a0",  # also a pre-release that a centre brings, which is left in place
    "torch_geometric>=2.6.1",
    "mpi4py>=4.1",
    "adios2>=2.10.2",
    "numpy>=2.0.2",
    "pandas>=2.2.3",
    "vesin>=0.6",
    "ase>=3.24",
    "pydantic>=2.9.2",
    "PyYAML>=6.0.1",
    "typer>=0.12.5",
    "rich>=13.7",
    "jinja2>=3.1",
    "matplotlib>=3.9.2",
    "pillow>=10.4",
    "scipy>=1.15",
]

EXTRAS = {
    "tensorboard": ["tensorboardX>=2.6.2.2"],  # report --tensorboard
    "mpich": ["mpich>=4.2.3"],  # an MPI without a system package; a supercomputer brings its own
    "triton": ["triton>=3.9"],  # kernels for a GPU; torch for CUDA, ROCm or XPU brings its own, which may be older
    "test": ["pytest>=8.3.3", "pytest-timeout>=2.2", "hypothesis>=6.112"],
    "lint": ["ruff>=0.17.6", "mypy>=2.4"],
}


class BuildWithJobs(build_py):
    """Put ``jobs/`` and ``envs/`` into an installed package, for ``submit``."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in ("jobs", "envs"):
                shutil.copytree(
                    HERE / folder, Path(self.build_lib) / "hydragnn_hpc" / folder, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )  # fmt: skip


setup(
    name="hydragnn-hpc",
    version=VERSION,
    description="Ensembles of multi-task graph neural networks on supercomputers: one model per GPU",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="hydragnn_hpc developers",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Physics",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["hydragnn_hpc", "hydragnn_hpc.*"]),
    package_data={"hydragnn_hpc": ["**/*.html", "**/*.jinja", "**/*.css", "**/*.js", "**/*.c", "**/*.h", "py.typed"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["hydragnn-hpc = hydragnn_hpc.cli.main:main"],
        "ase.plugins": ["hydragnn_hpc = hydragnn_hpc.prediction.ase_plugin"],
    },
    cmdclass={"build_py": BuildWithJobs},
    zip_safe=False,
)
