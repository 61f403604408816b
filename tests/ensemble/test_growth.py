"""Campaigns that grow: the same bits as a campaign that was as large from the start; refusals change nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.cli.main import app
from hydragnn_hpc.ensemble.folder import read_plan, to_freeze
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import freeze
from hydragnn_hpc.paths import CampaignFolder
from tests import campaigns
from tests.ensemble.test_runs import BIN, as_settings, run
from tests.outcomes import outcome

pytestmark = pytest.mark.mpi
SMALL = ["variants=[H]", "replicas=2", "launch.stack=2"]
WIDE = "{name: wide, tasks: [H, M], model: {channels: 12}, training: {optimizer: {learning_rate: 0.003}}}"
LARGE = [f"variants=[H, M, {WIDE}]", "replicas=3", "launch.stack=3"]


def results(out: Path) -> dict[str, tuple[int, bytes]]:
    """Return when each result was written (in ns), and its content, by path."""
    paths = sorted(out.glob("members/*/*/result.json"))
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of the large campaign, run from the start."""
    out = tmp_path_factory.mktemp("large") / "out"
    done = run(small / "campaign.yaml", out, *as_settings(LARGE), ranks=0)
    assert done.returncode == 0, done.stderr
    return outcome(out)


@pytest.fixture(scope="module")
def finished_small(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small campaign, finished; tests let a copy of it grow."""
    out = tmp_path_factory.mktemp("small") / "out"
    done = run(small / "campaign.yaml", out, *as_settings(SMALL), ranks=0)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_growth_by_replicas_and_variants(
    small: Path, tmp_path: Path, finished_small: Path, large: dict[str, Any], ranks: int
) -> None:
    """The run that grows is killed midway, and its stacks have another size than those of the first run."""
    out = Path(shutil.copytree(finished_small, tmp_path / "out"))
    before = results(out)
    command = [str(BIN / "mpirun"), "-n", str(ranks), str(BIN / "hydragnn-hpc"), "run", str(small / "campaign.yaml")]
    growing = subprocess.Popen([*command, str(out), *as_settings(LARGE)], stderr=subprocess.DEVNULL)
    while len(results(out)) < len(before) + 2 and growing.poll() is None:
        time.sleep(0.02)
    growing.send_signal(signal.SIGKILL)
    assert growing.wait() == -signal.SIGKILL, "it finished before it was killed"
    done = run(small / "campaign.yaml", out, *as_settings(LARGE), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert outcome(out) == large
    assert {name: entry for name, entry in results(out).items() if name in before} == before
    kept = yaml.safe_load((out / "campaign.yaml").read_text())
    (earlier,) = kept["earlier"]
    assert (earlier["campaign"]["replicas"], kept["campaign"]["replicas"]) == (2, 3)
    assert earlier["since"] < kept["since"]


def test_growth_by_epochs(small: Path, tmp_path: Path) -> None:
    """Members continue from their checkpoints, or start again without; with both learning-rate schedules."""
    cosine = "{name: cosine, tasks: [H, C, M], training: {schedule: cosine, cosine: {epochs: 3}}}"

    def trained(out: str, epochs: int) -> subprocess.CompletedProcess[str]:
        options = as_settings([f"training={{epochs: {epochs}, batch_size: 16}}", f"variants=[HCM, {cosine}]"])
        return run(small / "campaign.yaml", tmp_path / out, *options, ranks=0)

    assert trained("whole", 6).returncode == 0
    assert trained("kept", 3).returncode == 0
    shutil.copytree(tmp_path / "kept", tmp_path / "removed")
    for path in (tmp_path / "removed").glob("members/*/*/checkpoint*.pt"):
        path.unlink()
    for grown in ("kept", "removed"):
        done = trained(grown, 6)
        assert done.returncode == 0 and "training.epochs: 3 -> 6" in done.stderr, done.stderr
        assert outcome(tmp_path / grown) == outcome(tmp_path / "whole")
        logs = [path.read_text() for path in (tmp_path / grown).glob("members/*/*/log.txt")]
        assert len(logs) == 4 and all(("resumed after epoch 3" in log) is (grown == "kept") for log in logs)


def test_what_is_not_growth_is_refused(small: Path, tmp_path: Path) -> None:
    path, folder = small / "campaign.yaml", CampaignFolder(tmp_path)
    settings = [*SMALL, "training.schedule=cosine"]
    freeze(folder, to_freeze(load_campaign(path, settings), folder)[1])
    before = folder.campaign.read_bytes()
    cases = {
        "replicas: 2 -> 1 (a campaign can grow, not shrink)": ["replicas=1"],
        "variants: H is missing": ["variants=[M]"],
        "training.cosine.epochs: 4 -> 6 (the epochs already trained had other learning rates": ["training.epochs=6"],
        "model.channels: 8 -> 9": ["model.channels=9"],
        "name: small -> other": ["name=other"],
        "tasks.H.loss.name: mse -> mae": ["variants=[{name: H, tasks: [H], losses: {H: mae}}, M]"],
    }
    for message, changes in cases.items():
        replaced = [entry.partition("=")[0] for entry in changes]
        others = [entry for entry in settings if entry.partition("=")[0] not in replaced]
        with pytest.raises(UserError) as error:
            read_plan(path, [*others, *changes], folder)
        assert message in str(error.value)
    options = as_settings(["variants=[H]", "replicas=1"])
    done = campaigns.called(small, "submit", str(path), str(tmp_path), "--site", "slurm", "--dry-run", *options)
    assert done.returncode == 2 and "holds another campaign: replicas: 2 -> 1" in done.stderr, done.stderr
    assert folder.campaign.read_bytes() == before and list(tmp_path.iterdir()) == [folder.campaign]


def test_settings_of_a_variant_are_those_of_a_campaign_that_has_them(
    small: Path, finished: Path, tmp_path: Path
) -> None:
    """The weights are the same to the bit; the settings include inputs and references. Other variants do not change."""
    own = (
        "model: {channels: 12}, training: {epochs: 3, optimizer: {name: SGD}}, losses: {H: huber}, weights: {M: 0.5},"
        " references: {H: composition, M: species}, inputs: [species, {name: shells, number: 2}]"
    )
    tasks = {
        "H": "{level: graph, field: mixing_enthalpy, loss: huber, reference: composition}",
        "M": "{level: node, field: magnetic_moment, weight: 0.5, reference: species}",
    }
    shared = [f"tasks={{{', '.join(f'{name}: {text}' for name, text in tasks.items())}}}", "variants=[HM]"]
    shared += [
        "inputs=[species, {name: shells, number: 2}]",
        "training={epochs: 3, batch_size: 16, optimizer: {name: SGD}}",
    ]
    settings = {
        "mixed": [f"variants=[H, {{name: own, tasks: [H, M], {own}}}]"],
        "all": [*shared, "model.channels=12"],
        "back": [shared[2], "variants=[H, {name: own, tasks: [H], inputs: [species]}]"],
    }
    weights = {("plain", member): entry for member, entry in outcome(finished).items()}
    for name, changes in settings.items():
        done = run(small / "campaign.yaml", tmp_path / name, *as_settings(["replicas=1", *changes]), ranks=0)
        assert done.returncode == 0, done.stderr
        weights |= {(name, member): entry for member, entry in outcome(tmp_path / name).items()}
    assert weights["mixed", "H/0"] == weights["plain", "H/0"]
    assert weights["mixed", "own/0"] == weights["all", "HM/0"]
    assert weights["back", "own/0"] == weights["plain", "H/0"] != weights["back", "H/0"]

    def predicted(name: str, *options: str) -> Result:
        return CliRunner().invoke(app, ["predict", str(tmp_path / name), str(small / "raw"), *options])

    error = predicted("mixed").exception
    assert isinstance(error, UserError) and error.exit_code == 2
    assert "its variants have different inputs; give --variant" in str(error)
    of_variant, of_campaign = predicted("mixed", "--variant", "own"), predicted("all")
    assert of_variant.exit_code == of_campaign.exit_code == 0, of_variant.output + of_campaign.output
    assert of_variant.stdout.count("\n") > 250
    assert of_variant.stdout == of_campaign.stdout.replace("\nHM,", "\nown,")


def test_a_dry_run_names_what_grows(small: Path, tmp_path: Path, finished_small: Path) -> None:
    out = Path(shutil.copytree(finished_small, tmp_path / "out"))
    shown = campaigns.done(small, "run", "campaign.yaml", str(out), *as_settings(LARGE), "--dry-run")
    for line in (
        "the campaign grows: replicas: 2 -> 3",
        "variants: + M, wide",
        "2 finished",
        "cost       wide: 3 to train",
        "in all 7 to train, less than 0.01 device-hours",
        "from the finished members of 1 variant",
    ):
        assert line in shown
    assert [line for line in shown.splitlines() if "H/02" in line]
    assert yaml.safe_load((out / "campaign.yaml").read_text())["campaign"]["replicas"] == 2
