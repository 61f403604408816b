"""Campaigns that have run, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.campaigns import done
from tests.prediction.campaigns import FEPT, PLAIN, TERNARY


@pytest.fixture(scope="session")
def fept_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LSMS text, ``raw``, and its data set."""
    folder = tmp_path_factory.mktemp("fept")
    done(folder, "data", "generate", "raw", "--cap", "8")
    done(folder, "data", "prepare", "raw", "fept.bp")
    return folder


@pytest.fixture(scope="session")
def fept(fept_data: Path) -> Path:
    """The same folder, and a campaign on it that has run: ``out``."""
    (fept_data / "campaign.yaml").write_text(yaml.safe_dump(FEPT))
    done(fept_data, "run", "campaign.yaml", "out")
    return fept_data


@pytest.fixture(scope="session")
def plain(fept_data: Path) -> Path:
    """The same data, learned from the species alone: ``out-plain``, with three members."""
    (fept_data / "plain.yaml").write_text(yaml.safe_dump(PLAIN))
    done(fept_data, "run", "plain.yaml", "out-plain")
    return fept_data / "out-plain"


@pytest.fixture(scope="session")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Periodic structures of several sizes in ``raw.extxyz``, and a campaign on them that has run: ``out``."""
    folder = tmp_path_factory.mktemp("ternary")
    done(folder, "data", "generate", "raw.extxyz", "--system", "ternary", "--cap", "6", "--sizes", "1x1x1,2x1x1")
    targets = ["--target", "mixing_enthalpy=mixing:energy:eV", "--target", "forces=node:forces:eV/Ang"]
    done(folder, "data", "prepare", "raw.extxyz", "ternary.bp", *targets)
    (folder / "campaign.yaml").write_text(yaml.safe_dump(TERNARY))
    done(folder, "run", "campaign.yaml", "out")
    return folder
