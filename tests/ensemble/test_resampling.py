"""Replicas with samples of their own: folds and draws, the same bits in any stack on any ranks, and the report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hydragnn_hpc.calibration import calibrate
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.staged import copies, requirements
from hydragnn_hpc.ensemble.folder import read_plan
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import read_frozen, read_members
from hydragnn_hpc.member.engine.resample import draw, split_in_folds
from hydragnn_hpc.member.engine.training_data import TrainingData, from_staged
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.analysis.spread import one_way
from hydragnn_hpc.report.write import write_report
from tests import campaigns
from tests.ensemble.test_runs import as_settings, run
from tests.outcomes import outcome

sizes_of_classes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=5)


def samples(sizes: list[list[int]], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sample numbers (three of four), and the class [n] and composition [n, 2] of every sample, shuffled.

    ``sizes`` are those of the classes, a list for each composition.
    """
    kinds = np.repeat(np.arange(len(sizes)), [sum(own) for own in sizes])
    flat = [size for own in sizes for size in own]
    classes = np.repeat(np.random.default_rng(seed).permutation(len(flat)), flat)
    order = np.random.default_rng(seed).permutation(len(kinds))
    return np.flatnonzero(order % 4), classes[order], np.stack([kinds, 9 - kinds], axis=1)[order]


@given(sizes_of_classes, st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_folds_partition_and_keep_classes_together(sizes: list[list[int]], number: int, seed: int) -> None:
    pool, classes, kinds = samples(sizes, seed)
    assume(len(np.unique(classes[pool])) >= number)
    folds = split_in_folds(pool, number, classes, kinds, seed)
    assert len(folds) == number and all(len(fold) for fold in folds)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), pool)
    for a, b in zip(folds, folds[1:] + folds[:1], strict=True):
        assert not set(classes[a]) & set(classes[b])
    again = split_in_folds(pool, number, 7 * classes.max() - 3 * classes, kinds, seed)  # the same under other names
    assert all(np.array_equal(a, b) for a, b in zip(folds, again, strict=True))
    alone = split_in_folds(pool, number, np.arange(len(classes)), kinds, seed) if len(pool) >= number else []
    for kind in np.unique(kinds[pool, 0]) if alone else ():
        assert np.ptp([np.count_nonzero(kinds[fold, 0] == kind) for fold in alone]) <= 1
    assert not alone or np.ptp([len(fold) for fold in alone]) <= 1


@given(sizes_of_classes, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_draws_repeat_whole_classes(sizes: list[list[int]], seed: int) -> None:
    part, classes, _ = samples(sizes, seed)
    assume(len(part))
    drawn = draw(part, classes, np.random.default_rng(seed))
    assert len(drawn) == len(part) and np.isin(drawn, part).all()
    times = np.array([np.count_nonzero(drawn == sample) for sample in part])
    uneven = [c for c in np.unique(classes[part]) if np.ptp(times[classes[part] == c]) > 0]
    assert len(uneven) <= 1  # the last is cut short
    np.testing.assert_array_equal(drawn, draw(part, 50 - classes, np.random.default_rng(seed)))


def test_a_draw_holds_the_expected_share() -> None:
    part, rng = np.arange(4000), np.random.default_rng(5)
    shares = [len(np.unique(draw(part, part, rng))) / len(part) for _ in range(20)]
    assert abs(np.mean(shares) - (1 - np.exp(-1))) < 0.005  # a draw's share varies by 0.005


@pytest.fixture(scope="module")
def crystal(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set, with the cell of its crystal, from which equivalent samples follow."""
    path = tmp_path_factory.mktemp("crystal") / "small.bp"
    prepare(small / "raw", path, Options(cell=tuple(surrogate.sites()[1].ravel().tolist())))
    return path


@pytest.fixture(scope="module")
def staged(crystal: Path) -> copies.StagedData:
    """The data set ``crystal``, staged with the classes of equivalent samples."""
    copies.copy(crystal, crystal.parent, requirements.of_all(parsed({"folds": 3})))
    return copies.open_staged(crystal.parent)


def parsed(resample: Any, replicas: int = 6, **training: Any) -> Campaign:
    content = {**campaigns.SMALL, "variants": ["H"], "replicas": replicas}
    return parse_campaign({**content, "training": {"batch_size": 16, "resample": resample, **training}}, "c.yaml")


def data_of(staged: copies.StagedData, resample: Any, **training: Any) -> TrainingData:
    return from_staged(staged, parsed(resample, **training))


def test_splits_of_replicas(staged: copies.StagedData) -> None:
    plain, folds, drawn = (data_of(staged, resample) for resample in ("none", {"folds": 3}, "bootstrap"))
    train, validation, _ = plain.split
    assert plain.split_of(4) is plain.split and plain.epoch_length == len(train)
    pool = np.sort(np.concatenate([train, validation]))
    for r in range(6):
        own = folds.split_of(r)
        np.testing.assert_array_equal(np.sort(np.concatenate([own.train, own.validation])), pool)
        assert own.validation is folds.split_of(r % 3).validation and own.test is folds.split.test
        assert folds.epoch_length <= len(own.train) <= folds.epoch_length + 8
    np.testing.assert_array_equal(np.sort(np.concatenate([folds.split_of(r).validation for r in range(3)])), pool)
    classes = staged.arrays[copies.CLASSES]
    assert len(np.unique(classes)) < len(classes) - 10  # there are equivalents to keep together
    assert not np.isin(classes[folds.split_of(0).train], classes[folds.split_of(0).validation]).any()
    draws = [drawn.split_of(r) for r in range(3)]
    assert all(len(own.train) == drawn.epoch_length == len(train) for own in draws)
    assert all(own.validation is drawn.split.validation for own in draws)
    assert not np.array_equal(draws[0].train, draws[1].train) and np.isin(draws[0].train, train).all()
    np.testing.assert_array_equal(draws[1].train, data_of(staged, "bootstrap").split_of(1).train)


def test_fewer_samples_are_chosen_from_a_replicas_own(staged: copies.StagedData) -> None:
    few, more = (data_of(staged, {"folds": 3}, samples=n) for n in (40, 80))
    for r in range(3):
        train = few.split_of(r).train
        assert len(train) == 40 and np.isin(train, more.split_of(r).train).all()
        assert np.isin(train, data_of(staged, {"folds": 3}).split_of(r).train).all()
    train = data_of(staged, "bootstrap", samples=40).split_of(1).train
    assert len(train) == 40 and np.isin(train, data_of(staged, "none", samples=40).split.train).all()


def test_resample_none_does_not_change_a_campaigns_hash() -> None:
    content = {**campaigns.SMALL, "training": {"epochs": 4, "batch_size": 16, "resample": "none"}}
    plain = parse_campaign(campaigns.SMALL, "")
    assert config_hash(parse_campaign(content, ""), "0") == config_hash(plain, "0")
    assert requirements.of_all(plain) == (requirements.PLAIN,)


@pytest.mark.parametrize(
    ("resample", "message"),
    [
        ("boostrap", "training.resample: unknown resampling 'boostrap'; did you mean 'bootstrap'?"),
        ({"fold": 5}, "training.resample: unknown key 'fold'; did you mean 'folds'?"),
        ({"folds": 1}, "training.resample: folds: Input should be greater than or equal to 2 (given: 1)"),
        (
            {"folds": 7},
            "training.resample.folds=7: 6 replicas would leave folds that none is validated on; set replicas=7",
        ),
        (5, "training.resample: give none, bootstrap or {folds: 5}"),
        (False, "resample: in YAML yes, no"),
    ],
)
def test_invalid_resampling_is_refused_in_one_line(resample: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(resample)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_folds_that_do_not_fit_the_data_are_refused(small: Path, crystal: Path, tmp_path: Path) -> None:
    options = ["replicas=900", "training.resample={folds: 900}", "training.batch_size=1"]
    with pytest.raises(UserError, match="samples to train and validate on; set fewer folds"):
        read_plan(small / "campaign.yaml", options, CampaignFolder(tmp_path / "out"))
    most = sum(store.read_manifest(crystal).split[:2])
    with pytest.raises(
        UserError, match=rf"folds={most}: the training and validation sets have \d+ samples not equivalent"
    ):
        copies.copy(crystal, tmp_path, requirements.of_all(parsed({"folds": most}, most)))


VARIANTS = (
    "[HM, {name: folds, tasks: [H, M], training: {resample: {folds: 3}}},"
    " {name: drawn, tasks: [H, M], training: {resample: bootstrap}}]"
)


@pytest.fixture(scope="module")
def resampled(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with six replicas of each kind of resampling, each trained alone on one rank."""
    out = tmp_path_factory.mktemp("resampled") / "out"
    done = run(small / "campaign.yaml", out, *as_settings([f"variants={VARIANTS}", "replicas=6"]), ranks=0)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize(("stack", "ranks"), [(4, 2), pytest.param(6, 1, marks=pytest.mark.long)])
def test_the_same_bits_in_any_stack_on_any_ranks(
    small: Path, tmp_path: Path, resampled: Path, stack: int, ranks: int
) -> None:
    options = [f"variants={VARIANTS}", "replicas=6", f"launch.stack={stack}"]
    done = run(small / "campaign.yaml", tmp_path / "out", *as_settings(options), ranks=ranks)
    assert done.returncode == 0, done.stderr
    found, expected = outcome(tmp_path / "out"), outcome(resampled)
    assert found == expected
    assert len({entry[0] for name, entry in found.items() if name != "table1"}) == 18


@pytest.mark.mpi
@pytest.mark.slow
def test_the_report_separates_the_sources_of_the_spread(small: Path, resampled: Path) -> None:
    with campaigns.without_figures():
        campaigns.done(small, "report", str(resampled))
    with (resampled / "report/spread.csv").open(newline="") as stream:
        rows = {(r["variant"], r["task"]): r for r in csv.DictReader(stream)}
    assert set(rows) == {(v, t) for v in ("folds", "drawn") for t in "HM"}
    assert rows["folds", "H"]["separated_by"] == "replicas of one fold" and rows["drawn", "H"]["separated_by"] == "HM"
    errors = {
        v: [entry[1]["H"]["rmse"] for name, entry in outcome(resampled).items() if name.startswith(f"{v}/")]
        for v in ("HM", "drawn")
    }
    by_hand = [np.std(errors[v], ddof=1) for v in ("HM", "drawn")]
    row = rows["drawn", "H"]
    assert [float(row[k]) for k in ("std_initial_weights", "rmse_std")] == pytest.approx(by_hand)
    assert float(row["std_data"]) == pytest.approx(np.sqrt(max(0.0, by_hand[1] ** 2 - by_hand[0] ** 2)))
    assert float(row["variance_ratio_low"]) < float(row["variance_ratio"]) < float(row["variance_ratio_high"])
    assert "The spread between replicas" in (resampled / "report/index.html").read_text()
    folder = CampaignFolder(resampled)
    campaign = read_frozen(folder).campaign
    found = {v: [m for m in read_members(folder, campaign) if m.variant == v] for v in ("folds", "drawn")}
    assert "no validation set in common" in calibrate(folder, campaign, found["folds"]).why_not
    assert not calibrate(folder, campaign, found["drawn"]).why_not


@pytest.mark.slow
def test_a_spread_that_cannot_be_separated_is_named(small: Path, tmp_path: Path) -> None:
    options = ["variants=[H]", "replicas=2", "training.resample=bootstrap", "training.epochs=1"]
    done = run(small / "campaign.yaml", tmp_path / "out", *as_settings(options), ranks=0)
    assert done.returncode == 0, done.stderr
    with campaigns.without_figures():
        write_report(tmp_path / "out")
    page = (tmp_path / "out/report/index.html").read_text()
    assert "cannot be separated: add a variant with training.resample=none" in " ".join(page.split())


def test_a_reference_of_other_samples_is_remarked(small: Path, tmp_path: Path) -> None:
    options = ["variants=[H]", "tasks.H.reference=composition", "training.resample=bootstrap"]
    for changes, number in ((options, 1), (options[:2], 0)):
        remarks = read_plan(small / "campaign.yaml", changes, CampaignFolder(tmp_path / "out")).remarks
        assert sum("reference-of-folds" in remark for remark in remarks) == number


def test_planted_sources_are_recovered() -> None:
    rng, inside, found = np.random.default_rng(2), 0, []
    for _ in range(300):
        folds = [0.3 * rng.standard_normal() + 0.1 * rng.standard_normal(n) for n in (4, 4, 3, 4, 2)]
        sources = one_way([list(fold) for fold in folds])
        assert sources is not None and sources.interval is not None
        found.append((sources.initial**2, sources.data**2))
        inside += sources.interval[0] <= 10 <= sources.interval[1]
    initial, data = np.mean(found, axis=0)
    assert initial == pytest.approx(0.01, rel=0.05) and data == pytest.approx(0.09, rel=0.1)
    assert 275 <= inside <= 297  # 95 % of 300 are 285, with a standard deviation of 3.8
    assert one_way([[0.1], [0.2], [0.3]]) is None and one_way([[0.1, 0.2]]) is None
