"""Files that would execute code when unpickled, in every place that a campaign reads: nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hydragnn_hpc import Ensemble
from hydragnn_hpc.dataset.staged import copies
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.analysis import content
from tests import campaigns
from tests.campaigns import command
from tests.payload import Payload
from tests.submit.programs import stand_in

CAMPAIGN = {
    **campaigns.SMALL,
    "variants": ["HC"],
    "model": {"layers": 1, "channels": 4, "graph_head": [4], "node_head": [4]},
    "training": {"epochs": 2, "batch_size": 32},
}
UMASK = 0o027
"""Of the campaign that the tests share."""


def trained(folder: Path, umask: int) -> Path:
    """Make a data set and a finished campaign on it: ``raw``, ``small.bp``, ``out``."""
    (folder / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN))
    for words in ("data generate raw --cap 6", "data prepare raw small.bp", "run campaign.yaml out"):
        done = command(folder, *words.split(), umask=umask)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign; read it only."""
    return trained(tmp_path_factory.mktemp("whole"), UMASK)


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished campaign, which a test damages."""
    return Path(shutil.copytree(whole, tmp_path / "damaged"))


def bare(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps(payload))


def of_torch(path: Path, payload: Payload) -> None:
    torch.save({"schema": 1, "identity": payload, "tensors": payload, "weights": payload}, path)


def of_old_torch(path: Path, payload: Payload) -> None:
    torch.save({"schema": 1, "weights": payload}, path, _use_new_zipfile_serialization=False)


def of_numpy(path: Path, payload: Payload) -> None:
    if path.suffix == ".npz":
        names = np.load(path).files
        np.savez(path, **{name: np.array([payload], dtype=object) for name in names})
    else:
        with path.open("wb") as stream:
            np.save(stream, np.array([payload], dtype=object), allow_pickle=True)


def no_archive(path: Path, payload: Payload) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


MAKERS = {".pt": (bare, of_torch, of_old_torch), ".npz": (of_numpy, bare), ".npy": (bare, of_numpy)}


@pytest.mark.parametrize("make", {maker for makers in MAKERS.values() for maker in makers})
def test_the_payload_runs_where_nothing_prevents_it(make: Callable[..., None], tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    path, payload = tmp_path / "x.npy", Payload(tmp_path / "ran")
    make(path, payload)
    if make is of_numpy:
        np.load(path, allow_pickle=True)
    elif make is bare:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert (tmp_path / "ran").is_dir()


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the errors that a command reported; its output must hold no traceback."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("hydragnn-hpc: error")]


def refused(read: Callable[[], object], name: str) -> None:
    """Check that a reader refuses a file in one short line that names it."""
    with pytest.raises(UserError, match=name) as caught:
        read()
    assert len(str(caught.value)) < 700


def test_a_run_passes_over_checkpoints_that_would_execute_something(damaged: Path) -> None:
    members = [damaged / "out" / "members" / "HC" / replica for replica in ("00", "01")]
    makers = iter((*MAKERS[".pt"], of_torch))
    for member in members:
        (member / "result.json").unlink()
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            next(makers)(member / name, Payload(damaged / "ran"))
    done = command(damaged, "run", "campaign.yaml", "out")
    assert done.returncode == 0 and errors_of(done) == [], done.stderr
    assert not (damaged / "ran").exists()
    for member in members:
        assert (member / "result.json").exists()
        said = (member / "log.txt").read_text().splitlines()
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            assert sum(f"{name} cannot be used" in line for line in said) == 1, said


def test_a_run_trains_again_what_cannot_be_read(damaged: Path) -> None:
    members = damaged / "out" / "members" / "HC"
    (members / "00" / "result.json").write_text("[" * 100_000)
    shutil.rmtree(members / "01")
    (members / "01").touch()
    done = command(damaged, "run", "campaign.yaml", "out")
    assert done.returncode == 0 and errors_of(done) == [], done.stderr
    for name in ("HC/00", "HC/01"):
        assert f"remark: {name}: cannot read" in done.stderr
    shown = command(damaged, "status", "out")
    assert "unreadable" not in shown.stdout and "waiting" not in shown.stdout, shown.stdout
    kept = sorted(p.name.partition("-")[0] for p in members.rglob("*.unreadable-*"))
    assert kept == ["01.unreadable", "result.json.unreadable"]


def test_models_that_would_execute_something_are_refused(damaged: Path) -> None:
    folder = CampaignFolder(damaged / "out")
    for make in MAKERS[".pt"]:
        make(folder.member("HC", 1).model, Payload(damaged / "ran"))
        refused(lambda: Ensemble(folder.root), r"01/model\.pt")
    done = command(damaged, "predict", "out", "raw", "--out", "never.csv")
    assert done.returncode == 2 and len(errors_of(done)) == 1 and "model.pt" in errors_of(done)[0], done.stderr
    assert not (damaged / "ran").exists() and not (damaged / "never.csv").exists()


def test_arrays_that_would_execute_something_are_left_out_of_a_report(damaged: Path) -> None:
    out = damaged / "out"
    for make in (*MAKERS[".npz"], no_archive):
        make(out / "members" / "HC" / "01" / "predictions.npz", Payload(damaged / "ran"))
        assert ["HC/01" in line for line in content.gather(out).predictions.problems] == [True]
    for make in MAKERS[".npz"]:
        make(out / "test_set.npz", Payload(damaged / "ran"))
        assert any("test_set.npz" in line for line in content.gather(out).remarks)
    assert not (damaged / "ran").exists()


def test_node_local_arrays_that_would_execute_something_are_refused(damaged: Path) -> None:
    (damaged / "staged").mkdir()
    copies.copy(damaged / "small.bp", damaged / "staged")
    for path in sorted((damaged / "staged").glob("*.npy")):
        before = path.read_bytes()
        for make in MAKERS[".npy"]:
            make(path, Payload(damaged / "ran"))
            refused(lambda: copies.open_staged(damaged / "staged"), "run the same command again")
        path.write_bytes(before)
    assert copies.open_staged(damaged / "staged").manifest.sha256 and not (damaged / "ran").exists()


def test_names_of_files_and_of_samples_do_not_control_a_terminal(tmp_path: Path) -> None:
    """Names in data from others appear in messages and in data sets' manifests."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for file, element in (("good.extxyz", "Cu"), ("bad\x1b[2J\nname.extxyz", "Xx")):
        for k in range(12):
            with (raw / file).open("a") as stream:
                stream.write(f"2\nProperties=species:S:1:pos:R:3 energy=-{k}.5\n{element} 0 0 {k / 100}\nAu 0 0 2.5\n")
    target = ("--target", "E=graph:energy:eV")
    failed = command(tmp_path, "data", "prepare", "raw", "a.bp", *target)
    made = command(tmp_path, "data", "prepare", "raw", "a.bp", *target, "--on-error", "skip")
    shown = command(tmp_path, "data", "info", "a.bp")
    for done in (failed, made, shown):
        assert "\x1b" not in done.stdout + done.stderr
        assert r"bad\x1b[2J name.extxyz, frame 0" in done.stdout + done.stderr
    assert (failed.returncode, made.returncode) == (2, 0) and failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_no_file_of_a_campaign_executes_anything_in_any_command(damaged: Path) -> None:
    """First every file but those that every command needs; then these."""
    out, payload = damaged / "out", Payload(damaged / "ran")
    for path in out.rglob("*"):
        if path.is_file() and path.name not in ("campaign.yaml", "result.json", "model.pt"):
            bare(path, payload)
    for name in ("members/HC/00/failure.json", "progress.json", "run.lock", "jobs/chain.json"):
        (out / name).parent.mkdir(exist_ok=True)
        bare(out / name, payload)
    commands = [["status", "out"], ["report", "out"], ["run", "campaign.yaml", "out"], ["predict", "out", "raw"]]
    for words in commands:
        done = command(damaged, *words)
        assert done.returncode == 0 and errors_of(done) == [], f"{words}: {done.stderr}"
    bare(out / "members" / "HC" / "00" / "result.json", payload)
    done = command(damaged, "status", "out")
    assert done.returncode == 0 and errors_of(done) == [], done.stderr
    assert "unreadable: HC/00: cannot read" in done.stdout
    (out / "campaign.yaml").write_text(f"campaign: !!python/object/apply:os.mkdir [{damaged / 'ran'}]\n")
    for words in commands:
        done = command(damaged, *words)
        assert done.returncode == 2 and len(errors_of(done)) == 1 and "campaign.yaml" in errors_of(done)[0], done.stderr
    assert not (damaged / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("umask", [UMASK, pytest.param(0o077, marks=pytest.mark.long)])
def test_all_that_a_data_set_and_a_campaign_write_follows_the_umask(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    stand_in(tmp_path, "sbatch", "echo 7")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    before = set(tmp_path.rglob("*")) | {tmp_path / "campaign.yaml"}
    if umask == UMASK:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)  # with the modes of its files
    else:
        trained(tmp_path, umask)
    for words in (
        "data split small.bp other.bp --split-by random", "data convert small.bp small.extxyz",
        "data convert small.bp text", "data info small.bp --figure figure.png", "report out",
        "predict out raw --out predicted.csv", "submit campaign.yaml new --site slurm",
    ):  # fmt: skip
        done = command(tmp_path, *words.split(), umask=umask)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    written = sorted(set(tmp_path.rglob("*")) - before)
    assert len(written) > 100
    modes = {path: path.stat().st_mode & 0o777 for path in written}
    wrong = {str(p): oct(m) for p, m in modes.items() if m != (0o777 if p.is_dir() else 0o666) & ~umask}
    assert not wrong
