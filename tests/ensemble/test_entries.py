"""A run whose folder holds something else in the place of a file or folder of it: one line, and nothing is lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hydragnn_hpc.ensemble.supervisor import Rank
from hydragnn_hpc.errors import ExitCode
from hydragnn_hpc.paths import CampaignFolder
from tests import campaigns

TINY = {
    "variants": ["H"],
    "replicas": 1,
    "model": {"layers": 1, "channels": 4, "graph_head": [4], "node_head": [4]},
    "training": {"epochs": 1, "batch_size": 32},
}
NEEDED = {
    "folder": ("campaign.yaml", "run.json", "run.lock"),
    "file": ("campaign.yaml", "members"),
    "loop": ("campaign.yaml", "run.lock", "members"),
}
"""What a run cannot do without, and cannot write again, by what is in its place."""
INFORM = ("logs/events.jsonl", "progress.json", "remarks.json", "report/figures", "report/table1.csv")
"""What only informs the user."""


def folder(path: Path) -> None:
    (path / "kept").mkdir(parents=True)


def file(path: Path) -> None:
    path.write_bytes(b"\xff\x00[garbage")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two campaigns' folders, ``finished`` and ``unfinished``, the latter as a killed run leaves it."""
    base = tmp_path_factory.mktemp("entries")
    campaigns.make(base, **TINY)
    campaigns.done(base, "run", "campaign.yaml", "finished")
    shutil.copytree(base / "finished", base / "unfinished")
    member = CampaignFolder(base / "unfinished").member("H", 0)
    member.result.rename(member.checkpoint)
    for path in member.written:
        path.touch()
    member.failure.write_text("[]")
    return base


@pytest.fixture(autouse=True)
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave of a run what its first rank reads and writes at its start and its end."""

    def at_once(rank: Rank) -> ExitCode:
        assert rank.controller is not None and rank.lock is not None
        rank.controller.tick()
        rank.controller.close()
        rank.lock.release()
        return ExitCode.DONE

    monkeypatch.setattr(Rank, "run", at_once)
    monkeypatch.setattr("hydragnn_hpc.ensemble.lock.BEAT_SECONDS", 0.01)  # how long a damaged lock is observed


def content(out: Path) -> dict[str, bytes | str]:
    """Return everything in a folder by its name: files with their bytes, links with their targets."""
    found: dict[str, bytes | str] = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def entries(out: Path) -> list[str]:
    """Return the names of everything in a folder and of what a run adds to it, with one table for all."""
    there = {str(p.relative_to(out)) for p in out.rglob("*")} | {"run.lock", *INFORM}
    return sorted(name for name in there if not name.startswith("report/") or name in INFORM)


@pytest.mark.parametrize("kind", [folder, file, loop])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_every_entry(made: Path, tmp_path: Path, state: str, kind: Callable[[Path], None]) -> None:
    for number, name in enumerate(entries(made / state)):
        out = tmp_path / str(number)
        shutil.copytree(made / state, out)
        entry = out / name
        if entry.is_dir():
            shutil.rmtree(entry)
        entry.unlink(missing_ok=True)
        kind(entry)
        before = content(out)
        done = campaigns.called(made, "run", "campaign.yaml", str(out))
        after, lines = content(out), [line for line in done.stderr.splitlines() if str(out) in line]
        where = f"{name}: exit code {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "Errno" not in done.stderr, where
        if name in NEEDED[kind.__name__]:
            assert done.returncode == 2 and len(lines) == 1 and lines == done.stderr.splitlines()[-1:], where
            assert re.search(r"move or remove it|give (another|an empty or a new) folder", lines[0]), where
            assert before == after, where
            continue
        assert done.returncode == 0 and len(lines) <= 1 and "error" not in done.stderr, where
        if kind is folder and name in INFORM and name != "report/figures":
            assert str(entry) in lines[0] and "move or remove it" in lines[0], where
        if kind is folder and re.match("members/H/00/.*", name) and (state == "unfinished" or "result" in name):
            assert not entry.exists() and list(entry.parent.glob(f"{entry.name}.unreadable-*/kept")), where
        kept = [n for n in before if n.partition("/")[0] not in ("logs", "report", "progress.json", "remarks.json")]
        lost = [n for n in kept if n != "run.json" and not n.startswith(name) and before[n] != after.get(n)]
        assert not lost, where
