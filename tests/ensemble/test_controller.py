"""Decisions and output of a run, without ranks and workers."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hydragnn_hpc.ensemble.controller import Controller
from hydragnn_hpc.ensemble.display import Display
from hydragnn_hpc.ensemble.folder import begin, read_plan
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.ensemble.messenger import RankPlacement
from hydragnn_hpc.ensemble.run_files import RunFiles
from hydragnn_hpc.ensemble.workers import WorkerProcess, Workers
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import read_frozen
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import Broken, EngineChanged, Epoch, Finished, Ready, Train
from hydragnn_hpc.streams import OptionalStream
from tests import campaigns

WORKER = (0, 0)
DEVICE = Device(type="cpu", name="x", index=None, uuid=None)


@pytest.fixture
def control(small: Path, tmp_path: Path) -> Callable[..., Controller]:
    """Make the controller of a run of the small campaign into ``out``, on ranks of one host."""

    def make(*settings: str, out: Path = tmp_path / "out", ranks: int = 1, deadline: float | None = None) -> Controller:
        folder = CampaignFolder(out)
        folder.root.mkdir(exist_ok=True)
        plan = begin(read_plan(small / "campaign.yaml", [*settings], folder), folder)
        return Controller(plan, folder, [RankPlacement(r, "here", r, 0) for r in range(ranks)], deadline, lambda: None)

    return make


def ready(**device: object) -> Ready:
    """Return the first event of a worker whose device is as given, and plain elsewhere."""
    return Ready(device=DEVICE.model_copy(update=device), versions={}, pid=1)


def test_a_time_limit_that_expires_after_the_last_member_is_no_error(
    control: Callable[..., Controller], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = control(out=shutil.copytree(finished, tmp_path / "whole"), deadline=0.0)
    assert whole.commands() == [] and whole.over and whole.exit_code() is ExitCode.DONE
    short = control(deadline=0.0)
    assert short.commands() == [] and short.over
    with pytest.raises(UserError, match="the time limit was too short") as error:
        short.exit_code()
    short.close()
    assert error.value.exit_code is ExitCode.MEMBERS_FAILED and "again" not in capsys.readouterr().err


def test_events_about_members_that_a_worker_does_not_train_change_nothing(
    control: Callable[..., Controller], tmp_path: Path
) -> None:
    controller = control()
    controller.take(WORKER, ready())
    ((_, train),) = controller.commands()
    assert isinstance(train, Train)
    for event in (
        Epoch(variant=train.variant, members=()),
        Finished(variant=train.variant, replica=7, state="finished"),
        Finished(variant="M", replica=0, state="finished"),
    ):
        controller.take(WORKER, event)
    controller.tick()
    assert not controller.over and '"finished"' not in CampaignFolder(tmp_path / "out").events.read_text()


def test_ranks_that_use_one_device_are_refused(control: Callable[..., Controller]) -> None:
    controller = control(ranks=2)
    controller.take((0, 0), ready(uuid="GPU-1"))
    controller.take((1, 0), ready(uuid="GPU-2"))
    assert not controller.over
    controller.take((1, 0), ready(uuid="GPU-1"))
    with pytest.raises(UserError, match=r"ranks 0 and 1 on here use the same device x \(GPU-1\)") as error:
        controller.exit_code()
    assert controller.over and error.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("slots", [1, 2])
def test_slots_that_take_turns_are_reported_once(
    control: Callable[..., Controller], capsys: pytest.CaptureFixture[str], slots: int
) -> None:
    controller = control(f"launch.slots_per_device={slots}", ranks=2)
    for worker in ((rank, slot) for rank in range(2) for slot in range(slots)):
        controller.take(worker, ready(mps=False))
    assert capsys.readouterr().err.count("2 slots share x on here without MPS") == slots - 1


def test_a_member_that_continues_with_another_engine_is_named(
    control: Callable[..., Controller], capsys: pytest.CaptureFixture[str]
) -> None:
    control().take(WORKER, EngineChanged(variant="H", replica=0, before="engine torch", after="engine fused"))
    line = "H/00 was trained by engine torch, continues with engine fused: the last digits of its result depend on this"
    assert line in capsys.readouterr().err


def test_a_folder_is_removed_only_if_its_file_system_says_so(
    control: Callable[..., Controller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = control()

    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", stale)
        controller.tick()
    assert controller.fatal is None
    controller = control()
    shutil.rmtree(tmp_path / "out")
    controller.tick()
    assert "was removed during the run" in str(controller.fatal)


def test_the_same_command_is_a_remedy_only_for_a_run_that_was_stopped(
    control: Callable[..., Controller], capsys: pytest.CaptureFixture[str]
) -> None:
    controller = control()
    controller.take(WORKER, Broken(cause="no torch"))
    controller.close()
    assert "; 6 left\n" in capsys.readouterr().err
    controller = control()
    controller.stop(ExitCode.AGAIN, "SIGTERM received")
    controller.close()
    assert "; 6 left: run the same command again\n" in capsys.readouterr().err


def test_a_run_that_has_lost_its_folder_writes_nothing_more(
    small: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CampaignFolder(shutil.copytree(finished, tmp_path / "out"))

    def taken(lock: RunLock, force: bool = False) -> bool:
        folder.progress.write_text("of the other run")
        return False

    monkeypatch.setattr(RunLock, "beat", taken)
    done = campaigns.called(small, "run", "campaign.yaml", str(folder.root))
    assert done.returncode == 75 and "another run has taken the folder; leave it to that run" in done.stderr
    assert folder.progress.read_text() == "of the other run"
    assert '"end"' not in folder.events.read_text().splitlines()[-1]


def test_a_campaign_that_does_not_have_its_hash_is_refused(small: Path, finished: Path, tmp_path: Path) -> None:
    folder = CampaignFolder(shutil.copytree(finished, tmp_path / "out"))
    folder.campaign.write_text(folder.campaign.read_text().replace("epochs: 4", "epochs: 3"))
    with pytest.raises(UserError, match="does not have the hash that it states"):
        read_plan(small / "campaign.yaml", ["replicas=3"], folder)


def test_a_run_ends_even_if_the_decisions_of_a_halving_are_damaged(finished: Path, tmp_path: Path) -> None:
    folder = CampaignFolder(shutil.copytree(finished, tmp_path / "out"))
    files = RunFiles(read_frozen(folder), folder, print, lambda: None)
    assert files.closing_line()
    folder.rungs.write_text("[")
    assert files.closing_line() == ""


def test_a_terminal_is_not_controlled_by_what_an_error_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OptionalStream, "isatty", lambda stream: True)
    display = Display(1)
    display.line("H/00 failed: no file \x1b]0;title\x07:x:[b]")
    display.close()
    assert r"H/00 failed: no file \x1b]0;title\x07:x:[b]" in capsys.readouterr().err


def test_a_worker_for_which_the_system_has_no_process_is_broken() -> None:
    def make(slot: int) -> WorkerProcess:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    workers = Workers(make)
    workers.start(0)
    assert workers.poll() == [(0, Broken(cause="Resource temporarily unavailable"))] and workers.poll() == []
