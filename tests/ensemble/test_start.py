"""Members that start from those of another campaign: their bits, what is frozen, and what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.ensemble.folder import read_plan
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.member.training.start import FrozenParts, read_source
from hydragnn_hpc.paths import CampaignFolder
from tests import campaigns
from tests.ensemble.test_runs import run
from tests.outcomes import outcome

pytestmark = pytest.mark.mpi
KINDS: dict[str, dict[str, Any]] = {
    "fused": {},
    "torch": {"training": {"engine": "torch"}},
    "SAGE": {"model": {"convolution": "SAGE"}},
}
"""A variant for each engine."""


def trained(folder: Path, out: Path, *options: str, **changes: Any) -> None:
    """Run a campaign on the data set of ``folder`` to its end."""
    done = run(campaign(folder, out, **changes), out, *options, ranks=0)
    assert done.returncode == 0, done.stderr


def campaign(folder: Path, out: Path, **changes: Any) -> Path:
    """Write the file of a campaign on the data set of ``folder``, beside ``out``; return it."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(campaigns.text(dataset=str(folder / "small.bp"), **changes))
    return path


def refusal(folder: Path, out: Path, **changes: Any) -> str:
    """Return the line with which a campaign is refused, before anything is written."""
    before = files(out)
    with pytest.raises(UserError) as error:
        read_plan(campaign(folder, out, **changes), [], CampaignFolder(out))
    assert files(out) == before
    return str(error.value)


@pytest.fixture(scope="module")
def source(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign: two tasks with every engine."""
    out = tmp_path_factory.mktemp("source") / "source"
    trained(small, out, variants=[{"name": kind, "tasks": ["H", "M"], **own} for kind, own in KINDS.items()])
    return out


def files(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(out: Path, variant: str, replica: int) -> dict[str, torch.Tensor]:
    return read_model(CampaignFolder(out).member(variant, replica)).weights


def test_zero_epochs_reproduce_the_source(small: Path, tmp_path: Path, source: Path) -> None:
    before = files(source)
    own = [{"name": f"{kind}-again", "tasks": ["H", "M"], **keys, "start": {"from": str(source), "variant": kind}}
           for kind, keys in KINDS.items()]  # fmt: skip
    for variant in own:
        variant["training"] = {**variant.get("training", {}), "epochs": 0}
    trained(small, tmp_path / "out", "--set", "launch.stack=2", variants=own)
    there, here = outcome(source), outcome(tmp_path / "out")
    for kind in KINDS:
        for replica in (0, 1):
            name = f"{kind}/{replica}"
            assert here[f"{kind}-again/{replica}"] == (*there[name][:2], 0), name
            paths = [CampaignFolder(o).member(v, replica).predictions
                     for o, v in ((source, kind), (tmp_path / "out", f"{kind}-again"))]  # fmt: skip
            theirs, ours = (dict(np.load(path)) for path in paths)
            assert all(np.array_equal(theirs[key], ours[key]) for key in theirs)
    assert files(source) == before
    frozen = yaml.safe_load((tmp_path / "out/campaign.yaml").read_text())
    assert len(frozen["campaign"]["variants"][0]["start"]["sha256"]) == 64


def test_frozen_parts_keep_their_bytes(small: Path, tmp_path: Path, source: Path) -> None:
    """In a stack and alone alike, with weight decay, on fewer samples, with a head of its own."""
    training = {"epochs": 3, "batch_size": 16, "samples": 60, "optimizer": {"name": "AdamW", "weight_decay": 0.1}}
    parts = {"parts": ["trunk", "H"], "freeze": ["trunk"], "learning_rate": 0.01}

    start = {"from": "../source", **parts}
    variants = [{"name": kind, "tasks": ["H", "M"], **own, "start": {**start, "variant": kind}}
                for kind, own in KINDS.items()]  # fmt: skip
    for kind, own in KINDS.items():
        fresh = {"name": f"{kind}-fresh", "training": {**own.get("training", {}), "epochs": 0}}
        untrained = {**start, "variant": kind, "parts": ["trunk"], "freeze": []}
        variants.append({"tasks": ["H", "M"], **own, **fresh, "start": untrained})
    (tmp_path / "source").symlink_to(source)
    (tmp_path / "here").mkdir()
    for stack in (1, 2):
        out = tmp_path / f"here/{stack}"
        trained(small, out, "--set", f"launch.stack={stack}", variants=variants, training=training)
    assert outcome(tmp_path / "here/1") == outcome(tmp_path / "here/2")
    for kind in KINDS:
        for replica in (0, 1):
            theirs, ours = weights(source, kind, replica), weights(tmp_path / "here/1", kind, replica)
            same = {name for name in theirs if torch.equal(theirs[name], ours[name])}
            assert same == {name for name in theirs if name.startswith("trunk.")}
            assert any("running_mean" in name for name in same)
            rates = (tmp_path / f"here/1/members/{kind}/0{replica}/history.csv").read_text().splitlines()[1:]
            assert [float(row.split(",")[3]) for row in rates] == [0.01] * 3
        theirs, ours = weights(source, kind, 0), weights(tmp_path / "here/1", f"{kind}-fresh", 0)
        same = {name for name in theirs if torch.equal(theirs[name], ours[name])}
        assert same == {name for name in theirs if name.startswith("trunk.")}


def test_the_source_belongs_to_the_campaign_wherever_it_is(small: Path, tmp_path: Path) -> None:
    """It may move; more epochs of it are another campaign; more replicas of both are growth."""
    trained(small, tmp_path / "old", variants=["HM"], training={"epochs": 2, "batch_size": 16}, replicas=2)
    keys: dict[str, Any] = {"variants": ["H"], "start": {"from": str(tmp_path / "old"), "variant": "HM"}}
    trained(small, tmp_path / "out", **keys, replicas=1)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert "holds no campaign" in refusal(small, tmp_path / "out", **keys, replicas=1)
    keys["start"]["from"] = str(tmp_path / "new")
    trained(small, tmp_path / "out", **keys, replicas=2)
    trained(small, tmp_path / "fresh", **keys, replicas=2)
    assert outcome(tmp_path / "out") == outcome(tmp_path / "fresh")
    model = tmp_path / "new/members/HM/01/model.pt"
    model.rename(tmp_path / "model.pt")  # members with a checkpoint do not need it
    trained(small, tmp_path / "fresh", **keys, replicas=2, training={"epochs": 5, "batch_size": 16})
    (tmp_path / "model.pt").rename(model)
    trained(small, tmp_path / "new", variants=["HM"], training={"epochs": 3, "batch_size": 16}, replicas=2)
    refused = refusal(small, tmp_path / "out", **keys, replicas=2)
    assert "start.sha256: " in refused and "has been trained further" in refused


def test_a_source_in_the_same_folder_is_not_trained_further(small: Path, tmp_path: Path) -> None:
    """It would no longer be what the others start from, so that no run could finish them."""
    out = tmp_path / "out"
    short, longer = ({"epochs": epochs, "batch_size": 16} for epochs in (2, 3))
    own: list[Any] = ["H", {"name": "H-on", "tasks": ["H"], "start": {"from": "out", "variant": "H"}}]
    trained(small, out, variants=["H"], replicas=1, training=short)
    trained(small, out, variants=own, replicas=1, training=short)
    refused = refusal(small, out, variants=own, replicas=1, training=longer)
    assert "variant 'H-on' starts from 'H' in the same folder, which would be trained further; keep" in refused
    kept = {"name": "H", "tasks": ["H"], "training": {"epochs": 2}}
    trained(small, out, variants=[kept, own[1]], replicas=1, training=longer)
    again = campaign(small, out, variants=[kept, own[1]], replicas=1, training=longer)
    assert read_plan(again, [], CampaignFolder(out)).stacks() == []
    assert [outcome(out)[f"{name}/0"][2] for name in ("H", "H-on")] == [2, 3]  # type: ignore[index]


REFUSED: dict[str, dict[str, Any]] = {
    "has no variant 'fusd'; did you mean 'fused'?": {"start": {"variant": "fusd"}},
    "has model.channels=8, not 9; use the same": {"model": {**campaigns.SMALL["model"], "channels": 9}},
    "has model.node_head=(8,), not (7,); use the same": {"model": {**campaigns.SMALL["model"], "node_head": [7]}},
    "has inputs=[species], not [species, composition]; use the same": {"inputs": ["species", "composition"]},
    "has model.pooling=mean, not sum; use the same": {"model": {**campaigns.SMALL["model"], "pooling": "sum"}},
    "its task 'H' has reference=none, not composition; use the same, or leave its head": {
        "variants": [{"name": "HM", "tasks": ["H", "M"], "references": {"H": "composition"}}]
    },
    "its task 'H' has loss=mse, whose head has another width than that of nll; leave its head out": {
        "variants": [{"name": "HM", "tasks": ["H", "M"], "losses": {"H": "nll"}}]
    },
    "start.learning_rate=0.01 replaces its own training.optimizer.learning_rate; leave one out": {
        "start": {"learning_rate": 0.01},
        "variants": [{"name": "HM", "tasks": ["H", "M"], "training": {"optimizer": {"learning_rate": 0.1}}}],
    },
    "it has 2 replicas, and 3 are to start from them; set replicas=2 or fewer": {"replicas": 3},
    "variant fused has no task 'C'; set start.parts=[trunk]": {"variants": ["HC"]},
    "has the hash": {"start": {"sha256": "0" * 64}},
    "holds no campaign": {"start": {"from": "nowhere"}},
    "start.parts: unknown part 'trnk'; did you mean 'trunk'?": {"start": {"parts": ["trnk"]}},
    "start.freeze: 'H' is not among start.parts": {"start": {"parts": ["trunk"], "freeze": ["H"]}},
    "start.freeze: no part is left to train": {"start": {"freeze": ["trunk", "H", "M"]}},
    "unknown key 'start.form'; did you mean 'from'?": {"start": {"form": "x"}},
    "training.epochs=0: nothing is trained": {"start": None, "training": {"epochs": 0, "batch_size": 16}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(small: Path, tmp_path: Path, source: Path, message: str) -> None:
    changes = REFUSED[message]
    start = {"from": str(source), "variant": "fused", **(changes.get("start") or {})}
    keys = {"variants": ["HM"], **changes, "start": start if changes.get("start", 1) else None}
    assert message in refusal(small, tmp_path / "out", **keys)


def test_unfinished_members_and_other_elements_are_refused(small: Path, tmp_path: Path, source: Path) -> None:
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / "source/members/fused/01/result.json").unlink()
    keys: dict[str, Any] = {"variants": ["HM"], "start": {"from": "source", "variant": "fused"}}
    found = refusal(small, tmp_path / "out", **keys)
    assert "its member fused/01 is interrupted, not finished; run that campaign first" in found
    text = (tmp_path / "source/dataset.json").read_text()
    (tmp_path / "source/dataset.json").write_text(text.replace("78", "79"))
    found = refusal(small, tmp_path / "out", **keys, replicas=1)
    assert "its elements are [26, 79], those of the data set [26, 78]" in found


def test_a_source_is_the_one_that_the_run_began_with(small: Path, tmp_path: Path, source: Path) -> None:
    shutil.copytree(source, tmp_path / "source")
    out, start = tmp_path / "out", {"from": "source", "variant": "fused"}
    path = campaign(small, out, variants=["HM"], start=start)
    known = read_plan(path, [], CampaignFolder(out)).frozen.campaign.start
    assert known is not None and read_source(known, 1).weights
    model = tmp_path / "source/members/fused/01/model.pt"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="; restore it, or start from another campaign"):
        read_source(known, 1)
    model.write_bytes(whole)
    frozen = tmp_path / "source/campaign.yaml"
    frozen.write_text(frozen.read_text().replace("epochs: 4", "epochs: 5"))
    with pytest.raises(UserError, match="variant fused has been trained further, or replaced, since the run began"):
        read_source(known, 1)


def test_a_head_is_not_taken_for_that_of_a_task_with_a_longer_name() -> None:
    tasks = (TaskSizes("H", "graph", 1, (3,)), TaskSizes("H.1", "graph", 1, (3,)))
    layout = ParameterLayout.of(NetworkSizes(1, (4,), tasks, (1.0, 1.0)))
    frozen = FrozenParts.of(layout, ["H"])
    assert sum(end - first for first, end in frozen.parameters) == (4 * 3 + 3) + (3 + 1)


def test_a_start_is_read_back_and_changes_no_seed() -> None:
    start = {"from": "/a", "variant": "HM", "sha256": "1"}
    content = {**campaigns.SMALL, "variants": ["HM"]}
    plain, own = parse_campaign(content, ""), parse_campaign({**content, "start": start}, "")
    assert parse_campaign(own.model_dump(mode="json"), "") == own
    assert own.seed_of(own.variants[0], 1) == plain.seed_of(plain.variants[0], 1)
    with pytest.raises(UserError, match=r"missing key 'start\.variant'"):
        parse_campaign({**content, "start": {"from": "/a"}}, "")
