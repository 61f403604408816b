"""A byte changed, lost or added anywhere in a data set's folder: refused, with the file named."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hydragnn_hpc.errors import UserError
from tests.storage import damage


def _open(path: Path, answer: Connection) -> None:
    """In a child process, open the data set; send what happens."""
    from hydragnn_hpc.dataset import store

    try:
        store.read(path)
    except UserError as error:
        answer.send(f"refused: {error}")
    except BaseException as error:
        answer.send(f"crashed: {error!r}")
    else:
        answer.send("opened")


def opening(path: Path) -> str:
    """Open the data set in a child process; return ``opened``, ``refused: ...``, ``crashed ...`` or ``hangs``."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_open, args=(path, theirs))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(20) else "hangs"
    except EOFError:
        return "crashed without output"
    finally:
        child.kill()
        child.join()


@pytest.mark.timeout(1800)
def test_any_damage_is_refused_with_the_file_named(raw_data: Path, tmp_path: Path, fault_seed: int, long_form: bool):
    rng = random.Random(fault_seed)
    whole, hurt = raw_data / "small.bp", tmp_path / "hurt.bp"
    assert opening(whole) == "opened"
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    for _ in range(560 if long_form else 60):
        shutil.copytree(whole, hurt)
        target = hurt / rng.choice(files)
        done = damage(target, rng)
        answer = opening(hurt)
        assert answer.startswith("refused: ") and target.name in answer, f"{done}: {answer}"
        shutil.rmtree(hurt)
