"""Campaigns compared with one another, on the test samples that all of them hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hydragnn_hpc
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.analysis.comparison import BY_NAME, BY_NUMBER, Comparison, _identities, compare_campaigns
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from tests import campaigns
from tests.report import making

pytestmark = pytest.mark.slow


def truth(names: str, elements: list[int], numbers: list[int] | None) -> GroundTruth:
    """A test set of samples of one atom, each with a name of one letter."""
    index = None if numbers is None else np.array(numbers)
    return GroundTruth("", np.array(list(names)), np.array(elements), np.arange(len(names) + 1), {}, index)


FIRST = ("aab", [26, 26, 78], [0, 3, 4])


@pytest.mark.parametrize(
    ("other", "rule", "shared"),
    [
        (("aab", [26, 26, 78], [3, 5, 4]), BY_NUMBER, [(0, None), (1, 0), (2, 2)]),  # names are not unique
        (("aab", [26, 26, 78], None), BY_NAME, [(0, 0), (1, 1), (2, 2)]),
        (("ba", [78, 26], [0, 9]), BY_NAME, [(0, 1), (1, None), (2, 0)]),  # sample 0 is another one there
        (("aa", [26, 78], [0, 3]), BY_NAME, [(0, 0), (1, None), (2, None)]),  # as is sample 3, by its element
        (("ab", [26, 78], [7, 8]), BY_NAME, [(0, 0), (1, None), (2, 1)]),  # no number is shared
        (("ab", [26, 78], [3, 3]), BY_NAME, [(0, 0), (1, None), (2, 1)]),  # numbers are not unique
    ],
)
def test_what_makes_samples_the_same(
    other: tuple[str, list[int], list[int] | None], rule: str, shared: list[tuple[int, int | None]]
) -> None:
    keys, used = _identities({"first": truth(*FIRST), "other": truth(*other)})
    place = {key: k for k, key in enumerate(keys["other"])}
    assert used == rule and [(k, place.get(key)) for k, key in enumerate(keys["first"])] == shared


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Campaigns a and b on one data set, and c on another split of it."""
    folder = tmp_path_factory.mktemp("runs")
    campaigns.make(folder, variants=["HM", "H"], replicas=3)
    campaigns.done(folder, "run", "campaign.yaml", "a")
    campaigns.done(folder, "run", "campaign.yaml", "b", "--set", "seed=1", "--set", "variants=[HM]")
    campaigns.done(folder, "data", "split", "small.bp", "other.bp", "--split-by", "random", "--seed", "5")
    campaigns.done(folder, "run", "campaign.yaml", "c", "--set", "dataset=other.bp", "--set", "variants=[M]")
    return folder


def compared(folder: Path, *names: str, common: bool = False) -> Comparison:
    return compare_campaigns([str(folder / name) for name in names], common)


def test_errors_are_those_of_the_campaigns(folders: Path) -> None:
    found = compared(folders, "a", "b")
    for e in found.errors:
        results = hydragnn_hpc.load(e.campaign)
        (task,) = [t for t, s in results.campaign.tasks.items() if s.field == e.field]
        recorded = [m.result.tasks[task].rmse_unit for m in results.finished(e.variant) if m.result]
        assert e.rmse == pytest.approx(recorded, rel=1e-6) and len(e.rmse) == 3
        assert e.rmse_of_mean is not None and e.rmse_of_mean <= np.sqrt(np.mean(np.square(e.rmse)))
    assert [(Path(p.first.split(":")[0]).name, p.first.split()[-1], p.second.split()[-1]) for p in found.pairs] == [
        ("a", "HM", "HM"), ("a", "HM", "HM")
    ]  # fmt: skip


def test_the_order_of_campaigns_changes_signs_alone(folders: Path) -> None:
    there, back = compared(folders, "a", "b"), compared(folders, "b", "a")
    assert there.samples == back.samples
    for p, q in zip(there.pairs, back.pairs, strict=True):
        assert p.difference == pytest.approx(-q.difference) and p.p_holm == pytest.approx(q.p_holm)


def test_other_test_sets_are_compared_only_on_request_and_where_they_agree(folders: Path) -> None:
    with pytest.raises(UserError, match=r"the test sets differ: .* use --common-samples to compare on those"):
        compared(folders, "a", "c")
    found = compared(folders, "a", "c", common=True)
    assert found.rule == BY_NUMBER
    sets = [hydragnn_hpc.load(folders / name).test_set() for name in ("a", "c")]
    names = [dict(zip(s["names"].tolist(), range(len(s["names"])), strict=True)) for s in sets if s]
    shared = names[0].keys() & names[1].keys()
    assert found.samples == len(shared) > 0
    (mine,) = [e for e in found.errors if Path(e.campaign).name == "c"]
    results = hydragnn_hpc.load(folders / "c")
    atoms = np.concatenate([np.arange(32) + 32 * names[1][n] for n in sorted(shared)])
    by_hand = []
    for member in results.finished("M"):
        predicted, test = results.predictions(member), results.test_set()
        assert predicted and test
        by_hand.append(float(np.sqrt(np.mean((predicted["M"] - test["magnetic_moment"])[atoms] ** 2))))
    assert mine.rmse == pytest.approx(by_hand, rel=1e-9)
    # No variant has the same name: all that predict the target are compared.
    assert [(p.task, p.first.split()[-1], p.second.split()[-1]) for p in found.pairs] == [
        ("magnetic_moment", "HM", "M")
    ]


def test_the_tables_are_printed_and_written(folders: Path) -> None:
    shown = campaigns.done(folders, "compare", "a", "b", "--out", "page.md")
    page = (folders / "page.md").read_text()
    for text in (
        "Test errors on the same samples",
        "Samples are the same by number in the source.",
        "Differences between campaigns",
    ):
        assert text in shown and text in page


def test_a_page_replaces_no_file_of_another_kind(folders: Path) -> None:
    (folders / "c.yaml").write_text("name: a")
    done = campaigns.called(folders, "compare", "a", "b", "--out", "c.yaml")
    assert done.returncode == 2 and "--out c.yaml: give a page of Markdown a name that ends in .md" in done.stderr
    assert (folders / "c.yaml").read_text() == "name: a"


def test_predictions_and_test_sets_that_do_not_fit_or_are_missing_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        making.make(tmp_path / name, variants=("H",), replicas=2, samples=20, epochs=4)
    assert compared(tmp_path, "a", "b").samples == 20
    np.savez(tmp_path / "b/members/H/01/predictions.npz", H=np.zeros((3, 1)))
    expected = r"b: H/01: 'H' in predictions.npz does not fit the test set; remove its folder, and run again"
    with pytest.raises(UserError, match=expected):
        compared(tmp_path, "a", "b")
    (tmp_path / "b/members/H/01/predictions.npz").unlink()
    with pytest.raises(UserError, match=r"b: H/01: predictions.npz is missing; remove its folder, and run again"):
        compared(tmp_path, "a", "b")
    (tmp_path / "b/test_set.npz").unlink()
    with pytest.raises(UserError, match=r"b has no test_set.npz: imported models cannot be compared; if it was"):
        compared(tmp_path, "a", "b")
    making.make(tmp_path / "c", variants=("H",), replicas=2, samples=20, epochs=4, states={"H": "diverged"})
    with pytest.raises(UserError, match="c: no member has finished"):
        compared(tmp_path, "a", "c")


def test_what_cannot_be_compared_is_refused_in_a_line(folders: Path) -> None:
    for names, message in (
        (("a",), "two or more different campaign folders"), (("a", "a"), "two or more different campaign folders"),
        (("a", "missing"), "missing holds no campaign"), (("a", "c"), "the test sets differ"),
    ):  # fmt: skip
        done = campaigns.called(folders, "compare", *names)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, (
            done.stderr
        )
