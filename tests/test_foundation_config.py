"""Campaign files: what is read, what is refused and in which words, and which numbers follow from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from hydragnn_hpc.campaign_file import load_campaign, parse_campaign
from hydragnn_hpc.campaign_hash import config_hash, member_hash
from hydragnn_hpc.config import WITHOUT_EFFECT, Campaign, member_seed
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.prediction.ensemble import CALIBRATED, STD_PARTS
from hydragnn_hpc.sections import OPTIMIZERS

CAMPAIGNS = Path(__file__).parents[1] / "jobs" / "campaigns"
TASKS = {
    "H": {"level": "graph", "field": "mixing_enthalpy"},
    "C": {"level": "node", "field": "charge_transfer"},
    "M": {"level": "node", "field": "magnetic_moment"},
}


def content(**changes: Any) -> dict[str, Any]:
    """Return a small valid campaign as plain data, with ``changes``."""
    return {"name": "small", "dataset": "a.bp", "tasks": TASKS, "variants": ["HCM"], **changes}


def refused(**changes: Any) -> str:
    """Return the line in which ``content(**changes)`` is refused."""
    with pytest.raises(UserError) as caught:
        parse_campaign(content(**changes), "file.yaml")
    assert caught.value.exit_code == ExitCode.USAGE
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("file.yaml: ")
    return line


FORCES = {"level": "node", "field": "forces", "vector": True}
PAINN = {"convolution": "PaiNN", "edges": {"number": 8}}


@pytest.mark.parametrize("path", sorted(CAMPAIGNS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_campaign_is_valid(path: Path) -> None:
    campaign = load_campaign(path)
    assert Path(campaign.dataset).is_absolute()
    assert Path(campaign.dataset).parent == CAMPAIGNS.parents[1] / "data"


def test_the_paper_campaign_is_the_papers() -> None:
    campaign = load_campaign(CAMPAIGNS / "paper.yaml")
    assert [v.name for v in campaign.variants] == ["HCM", "HC", "HM", "CM", "H", "C", "M"]
    assert all(v.tasks == tuple(v.name) for v in campaign.variants)
    assert campaign.replicas * len(campaign.variants) == 84
    assert (campaign.model.layers, campaign.model.channels) == (6, 20)
    assert (campaign.training.batch_size, campaign.training.optimizer.learning_rate) == (64, 1e-3)


def test_the_example_names_every_key() -> None:
    """Somebody who adds a key to the configuration finds here that the example lacks it."""
    text = (CAMPAIGNS / "example.yaml").read_text()
    written = yaml.safe_load(text)

    def compare(section: type[BaseModel], given_keys: dict[str, Any], place: str) -> None:
        assert set(given_keys) == set(section.model_fields), f"example.yaml, {place}: keys differ"
        for name, info in section.model_fields.items():
            for option in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if option in OPTIMIZERS.values() and option is not OPTIMIZERS[given_keys[name]["name"]]:
                    continue
                if not (isinstance(option, type) and issubclass(option, BaseModel)) or name in ("tasks", "variants"):
                    continue
                if not isinstance(given_keys[name], str | None):
                    compare(option, given_keys[name], f"{place}.{name}")
                else:  # off by default; the comment says what it takes
                    keys = ": .*".join(info.alias or key for key, info in option.model_fields.items())
                    assert re.search(rf"^\s*{name}: (null|none) +#.*\b{keys}: ", text, re.M), f"{place}.{name}"

    compare(Campaign, written, "top")
    explained = {k for k, v in written.items() if not isinstance(v, dict)} - {"variants"}
    for key in explained | set(written["launch"]) | set(written["training"]) | set(written["model"]):
        assert re.search(rf"^\s*{key}:.*#", text, re.M), f"example.yaml: '{key}' has no comment"


def test_example_shows_the_defaults() -> None:
    campaign = load_campaign(CAMPAIGNS / "example.yaml")
    default = parse_campaign(content(), "")
    assert (campaign.model, campaign.training, campaign.launch) == (default.model, default.training, default.launch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replica": 3}, "unknown key 'replica'; did you mean 'replicas'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ({"training": {"optimizer": {"rate": 1}}}, "unknown key 'training.optimizer.rate'; did you mean"),
        ({"training": {"optimizer": {"name": "AdamX"}}}, "unknown optimizer 'AdamX'; did you mean 'Adam'?"),
        ({"training": {"optimizer": {"name": "AdamW", "rate": 1}}}, "unknown key 'training.optimizer.rate'; did you"),
        ({"training": {"optimizer": {"name": "AdamW", "weight_decay": -1}}}, "training.optimizer.weight_decay: "),
        ({"training": {"optimizer": "AdamW"}}, "training.optimizer: "),
        ({"training": {"plateau": {"patienc": 1}}}, "'training.plateau.patienc'; did you mean 'patience'?"),
        ({"tasks": {"H": {"level": "graph", "feild": "x"}}, "variants": ["H"]}, "did you mean 'field'?"),
        ({"variants": [{"name": "a", "task": ["H"]}]}, "did you mean 'tasks'?"),
        ({"variants": ["HX"]}, "variant 'HX': unknown task 'HX'"),
        ({"variants": [{"name": "a", "tasks": ["H"], "weights": {"h": 2.0}}]}, "unknown task 'h'; did you mean 'H'?"),
        ({"variants": ["H", "H"]}, "'H' is named twice"),
        ({"variants": ["HH"]}, "variant 'HH': task 'H' is named twice; remove one"),
        ({"variants": []}, "variants: "),
        ({"variants": 3}, "variants: "),
        ({"variants": [{"name": "../up", "tasks": ["H"]}]}, "variants.0.name: "),
        ({"replicas": 0}, "(given: 0)"),
        ({"seed": -1}, "(given: -1)"),
        ({"model": {"pooling": "median"}}, "(given: 'median')"),
        ({"training": {"optimizer": {"learning_rate": float("nan")}}}, "training.optimizer.learning_rate: "),
        ({"training": {"plateau": {"factor": 1.0}}}, "(given: 1.0)"),
        ({"tasks": None}, "tasks: "),
        ({"inputs": ["species", "shels"]}, "unknown input 'shels'; did you mean 'shells'?"),
        ({"inputs": [{"name": "shells", "numbr": 3}]}, "'inputs.0.numbr'; did you mean 'number'?"),
        ({"inputs": [{"name": "shells", "number": 0}]}, "(given: 0)"),
        ({"inputs": ["species", "species"]}, "'species' is named twice; remove one"),
        ({"tasks": {"F": {**FORCES, "vector": "yes"}}, "variants": ["F"]}, "tasks.F.vector: "),
        ({"tasks": {"F": FORCES}, "variants": ["F"]}, "set model.convolution=PaiNN and model.edges"),
        (
            {"tasks": {"F": FORCES}, "model": {**PAINN, "edges": None}, "variants": ["F"]},
            "PaiNN requires edge features",
        ),
        (
            {"tasks": {"F": {**FORCES, "reference": "species"}}, "model": PAINN, "variants": ["F"]},
            "variant 'F': tasks.F.reference=species: vectors have no reference; set none",
        ),
        (
            {"tasks": {"F": {**FORCES, "loss": "nll"}}, "model": PAINN, "variants": ["F"]},
            "tasks.F.loss=nll: the noise of a vector would depend on the axes; set mse, mae or huber",
        ),
        (
            {
                "tasks": {"F": FORCES},
                "model": PAINN,
                "variants": [{"name": "F", "tasks": ["F"], "losses": {"F": "nll"}}],
            },
            "variant 'F': tasks.F.loss=nll: the noise of a vector",
        ),
        (
            {"tasks": {"F": {**FORCES, "level": "graph"}}, "model": {**PAINN, "pooling": "max"}, "variants": ["F"]},
            "model.pooling=max is not equivariant; set mean or sum",
        ),
        ({"inputs": []}, "inputs: "),
        ({"inputs": "species"}, "inputs: "),
        ({"inputs": [3]}, "inputs.0: "),
        ({"inputs": [{"number": 3}]}, "missing key 'inputs.0.name'"),
        ({"inputs": [{"name": ["species"]}]}, "unknown input '['species']'"),
        ({"tasks": {"H": {"level": "graph", "field": "x", "reference": "mean"}}, "variants": ["H"]}, "'mean'"),
        (
            {"tasks": {"H": {"level": "graph", "field": "x", "reference": "linear"}}, "variants": ["H"]},
            "add shells or ewald",
        ),
        (
            {"tasks": {"H": {"level": "graph", "field": "x", "loss": "hubr"}}, "variants": ["H"]},
            "did you mean 'huber'?",
        ),
        (
            {"tasks": {"H": {"level": "graph", "field": "x", "loss": {"name": "huber", "detla": 1}}}},
            "unknown key 'tasks.H.loss.detla'; did you mean 'delta'?",
        ),
        ({"tasks": {"H": {"level": "graph", "field": "x", "loss": {"name": "huber", "delta": 0}}}}, "(given: 0)"),
        ({"training": {"optimizer": {"name": "SGD", "momentum": 1.0}}}, "training.optimizer.momentum: "),
        ({"training": {"schedule": "linear"}}, "(given: 'linear')"),
        ({"training": {"schedule": "cosine", "epochs": 9, "cosine": {"warmup": 10}}}, "longer than its 9 epochs"),
        ({"training": {"schedule": "cosine", "cosine": {"minimum": 1.0}}}, "above the learning rate 0.001"),
        ({"training": {"cosine": {"warm_up": 1}}}, "'training.cosine.warm_up'; did you mean 'warmup'?"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    assert words in refused(**changes)


def derived(task: str) -> set[str]:
    """Return what files of results call a task's values."""
    of_prediction = {f"{task}_{name}" for name in ("std", *STD_PARTS, *CALIBRATED)}
    return {task, *of_prediction} | {
        start + task for start in ("rmse_", "rmse_unit_", "rmse_std_", "mae_", "mae_unit_")
    }


@pytest.mark.parametrize("name", ["std", *STD_PARTS, *CALIBRATED, "rmse_unit_", "rmse_std_"])
def test_no_two_tasks_have_names_that_meet_in_files_of_results(name: str) -> None:
    other = name.removeprefix("rmse_") + "H" if name.endswith("_") else f"H_{name}"
    assert derived("H") & derived(other)
    for pair in ({"H", other}, {"H", f"target_{other}"}):
        words = refused(tasks=dict.fromkeys(sorted(pair), TASKS["H"]), variants=["H"])
        assert f"'{max(pair - {'H'})}' is also what files of results call a value of 'H'; rename one" in words
    parse_campaign(content(tasks=dict.fromkeys(["H", "Hstd", "H_s"], TASKS["H"]), variants=["H"]), "file.yaml")


def test_a_task_does_not_take_the_name_of_the_sample_numbers() -> None:
    words = refused(tasks={"sample": TASKS["H"]}, variants=["sample"])
    assert "'sample' has another meaning in files of predictions; rename the task" in words


def test_a_missing_key_is_named() -> None:
    incomplete = content()
    del incomplete["dataset"]
    with pytest.raises(UserError, match="missing key 'dataset'"):
        parse_campaign(incomplete, "file.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no settings"),
        ("- 1", "holds no settings"),
        ("a: [1", "cannot read campaign file"),
        ("a: \x00", "cannot read campaign file"),
        ("a: 2026-13-45", "cannot read campaign file"),
        ("[" * 5000, "cannot read campaign file"),
        (yaml.safe_dump(content(dataset="~nobody-of-that-name/a.bp")), "give the path of a data set"),
        (yaml.safe_dump(content(dataset="a\0.bp")), "dataset: String should match"),
        ("!!python/object/apply:os.getcwd []", "cannot read campaign file"),
    ],
)
def test_a_file_that_is_no_campaign(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_campaign(path)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such campaign file"):
        load_campaign(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="cannot read campaign file"):
        load_campaign(tmp_path / "binary.yaml")


def test_the_data_set_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "c.yaml"
    path.write_text(yaml.safe_dump(content(dataset="../data/x.bp")))
    monkeypatch.chdir(tmp_path)
    assert load_campaign(Path("sub/c.yaml")).dataset == str(tmp_path / "data" / "x.bp")
    (tmp_path / "two\nlines").mkdir()
    (tmp_path / "two\nlines" / "c.yaml").write_text(path.read_text())
    with pytest.raises(UserError, match=r"the data set's path '.*two\\nlines.*' holds a line break.*rename"):
        load_campaign(tmp_path / "two\nlines" / "c.yaml", ["dataset=x.bp"])
    path.write_text(yaml.safe_dump(content(dataset="/elsewhere/x.bp")))
    assert load_campaign(path).dataset == "/elsewhere/x.bp"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("replicas=3", lambda c: c.replicas, 3),
        ("training.epochs=7", lambda c: c.training.epochs, 7),
        ("training.optimizer.learning_rate=1e-2", lambda c: c.training.optimizer.learning_rate, 1e-2),
        ("training.early_stopping=null", lambda c: c.training.early_stopping, None),
        ("variants=[H, CM]", lambda c: [v.tasks for v in c.variants], [("H",), ("C", "M")]),
        ("model.graph_head=[8]", lambda c: c.model.graph_head, (8,)),
        ("tasks.H.weight=2", lambda c: c.tasks["H"].weight, 2.0),
        ("tasks.H.field='007'", lambda c: c.tasks["H"].field, "007"),
    ],
)
def test_overrides(tmp_path: Path, override: str, get: Any, value: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content()))
    assert get(load_campaign(path, [override])) == value


@pytest.mark.parametrize(
    "alias", ["M: {<<: *charges, field: magnetic_moment}", "M: *charges", "M: {level: node, field: m, loss: *huber}"]
)
def test_an_override_changes_no_section_that_is_an_alias_of_its_own(tmp_path: Path, alias: str) -> None:
    path = tmp_path / "c.yaml"
    loss = "&huber {name: huber, delta: 1.0}"
    tasks = f"{{C: &charges {{level: node, field: charge_transfer, loss: {loss}}}, {alias}}}"
    path.write_text(f"{{name: small, dataset: a.bp, variants: [CM], tasks: {tasks}}}")
    campaign = load_campaign(path, ["tasks.C.loss.delta=2"])
    assert campaign.tasks["C"].loss.model_dump()["delta"] == 2.0
    assert campaign.tasks["M"].loss.model_dump()["delta"] == 1.0


@pytest.mark.parametrize(
    "override", ["replicas", "=3", "a..b=1", "name.x=1", "replicas=[1", "replica=3", "seed=2026-13-45"]
)
def test_overrides_that_do_not_fit(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content()))
    with pytest.raises(UserError):
        load_campaign(path, [override])


@pytest.mark.parametrize(
    ("tasks", "name", "expected"),
    [
        (["H", "C", "M"], "HCM", ("H", "C", "M")),
        (["H", "C", "M"], "M+H", ("M", "H")),
        (["a", "ab", "b"], "abb", ("ab", "b")),
        (["energy", "force"], "energy+force", ("energy", "force")),
    ],
)
def test_variants_are_spelled_out(tasks: list[str], name: str, expected: tuple[str, ...]) -> None:
    declared = {t: {"level": "graph", "field": "x"} for t in tasks}
    assert parse_campaign(content(tasks=declared, variants=[name]), "").variants[0].tasks == expected


@given(replicas=st.integers(1, 40), size=st.integers(1, 15))
def test_stacks_hold_every_member_once_and_all_variants_early(replicas: int, size: int) -> None:
    campaign = parse_campaign(content(variants=["H", "CM"], replicas=replicas, launch={"stack": size}), "")
    members = [(variant, replica) for variant, stack in campaign.stacks() for replica in stack]
    assert sorted(members) == [(v, r) for v in ("CM", "H") for r in range(replicas)]
    assert all(1 <= len(stack) <= size for _, stack in campaign.stacks())
    assert [variant for variant, _ in campaign.stacks()[:2]] == ["H", "CM"]
    for variant in ("H", "CM"):
        assert [r for v, r in members if v == variant] == list(range(replicas))


def test_a_variants_own_epochs_are_a_whole_number_however_they_are_written() -> None:
    points = {"of": "H", "over": {"training.epochs": ["4", 6.0]}, "halving": {"keep": 0.5, "at": [2]}}
    campaign = parse_campaign(content(variants=[], sweep=points), "")
    assert [repr(campaign.epochs(variant)) for variant in campaign.variants] == ["4", "6"]


def test_a_variants_own_weight_counts() -> None:
    campaign = parse_campaign(
        content(
            tasks={**TASKS, "H": {**TASKS["H"], "weight": 3.0}},
            variants=["HC", {"name": "b", "tasks": ["H", "C"], "weights": {"H": 2.0}}],
        ),
        "",
    )
    assert [campaign.of_variant(v).tasks["H"].weight for v in campaign.variants] == [3.0, 2.0]
    assert campaign.of_variant(campaign.variant("b")).tasks["C"].weight == 1.0


@pytest.mark.parametrize(("given_", "decay"), [({}, 0.0), ({"name": "Adam"}, 0.0), ({"name": "AdamW"}, 0.01)])
def test_the_decay_is_torchs_unless_given(given_: dict[str, Any], decay: float) -> None:
    optimizer = parse_campaign(content(training={"optimizer": given_}), "").training.optimizer
    assert optimizer.weight_decay == decay


def test_seeds_are_those_of_every_machine_and_version() -> None:
    """Recorded numbers: a change of these changes every result."""
    assert member_seed(0, "HCM", 0) == 4422036017827444374
    assert member_seed(0, "HCM", 1) != member_seed(0, "HCM", 0)


@given(st.integers(0, 2**63 - 1), st.text(max_size=20), st.integers(0, 10**5))
def test_seeds_fit_a_signed_word(seed: int, variant: str, replica: int) -> None:
    assert 0 <= member_seed(seed, variant, replica) < 2**63


def hash_of(sha: str = "d", **changes: Any) -> str:
    """Return the hash of ``content(**changes)`` on the data set ``sha``."""
    return config_hash(parse_campaign(content(**changes), ""), sha)


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({}, {"dataset": "moved.bp"}),
        ({}, {"inputs": ["species"]}),
        ({}, {"tasks": {name: {**task, "reference": "none"} for name, task in TASKS.items()}}),
        ({}, {"model": {"layers": 6}}),
        ({}, {"variants": [{"name": "HCM", "tasks": ["H", "C", "M"], "weights": {"H": 1.0}}]}),
        ({}, {"training": {"schedule": "plateau", "cosine": {"warmup": 3}}}),
        ({"training": {"schedule": "cosine"}}, {"training": {"schedule": "cosine", "plateau": None}}),
        ({"training": {"schedule": "cosine"}}, {"training": {"schedule": "cosine", "cosine": {"epochs": 200}}}),
        ({"variants": ["H"]}, {"variants": ["H"], "model": {"node_head": [1]}}),
        ({"variants": ["CM"]}, {"variants": ["CM"], "model": {"graph_head": [1], "pooling": "max"}}),
        ({"variants": ["H"]}, {"variants": [{"name": "H", "tasks": ["H"], "weights": {"C": 2.0}}]}),
        ({"inputs": ["shells"]}, {"inputs": [{"name": "shells", "number": 13}]}),
        ({"model": {"edges": {}}}, {"model": {"edges": {"number": 20, "basis": "gaussian", "envelope": "none"}}}),
        (
            {"training": {"optimizer": {"name": "AdamW"}}},
            {"training": {"optimizer": {"name": "AdamW", "weight_decay": 0.01}}},
        ),
        *[({}, {"launch": {key: 7}}) for key in WITHOUT_EFFECT],
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_what_has_no_effect_names_the_same_campaign(changes: dict[str, Any], other: dict[str, Any]) -> None:
    assert hash_of(**changes) == hash_of(**other)


def test_a_stack_of_one_is_the_default_on_a_cpu() -> None:
    assert hash_of(launch={"stack": 1}) == hash_of() == hash_of(launch={"stack": "auto"})


@pytest.mark.parametrize("more", [{}, {"training": {"batch_size": 16}, "launch": {"threads": 2}}])
def test_a_member_is_the_same_with_more_epochs_and_in_any_stack(more: dict[str, Any]) -> None:
    def hashed(**changes: Any) -> str:
        sections = {key: {**more.get(key, {}), **changes.get(key, {})} for key in {*more, *changes}}
        campaign = parse_campaign(content(**sections), "")
        return member_hash(campaign, campaign.variants[0], "d")

    same = {hashed(), hashed(launch={"stack": 4}), hashed(launch={"stack": 1}), hashed(training={"epochs": 300})}
    assert len(same) == 1 and hashed(training={"epochs": 300}, model={"layers": 3}) not in same


def test_what_results_depend_on_names_another_campaign() -> None:
    linear = {name: {**task, "reference": "composition"} for name, task in TASKS.items()}
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"replicas": 2}, {"launch": {"stack": 2}}, {"launch": {"threads": 2}}, {"training": {"epochs": 3}},
        {"model": {"layers": 3}}, {"variants": ["H"]}, {"variants": ["CM"]},
        {"training": {"optimizer": {"name": "AdamW"}}}, {"training": {"schedule": "cosine"}}, {"tasks": linear},
        {"training": {"optimizer": {"weight_decay": 0.01}}}, {"training": {"plateau": None}},
        {"training": {"schedule": "cosine", "cosine": {"warmup": 3}}}, {"model": {"edges": {}}},
        {"model": {"edges": {"number": 9}}}, {"model": {"edges": {"basis": "bessel"}}},
        {"model": {"edges": {"envelope": "polynomial"}}}, {"model": {"graph_head": [1]}}, {"model": {"pooling": "max"}},
        {"inputs": ["shells"]}, {"inputs": ["species", "shells"]}, {"inputs": ["ewald"]},
        {"inputs": [{"name": "ewald", "powers": 2}]}, {"variants": ["H"], "model": {"graph_head": [1]}},
        {"variants": [{"name": "HCM", "tasks": ["H", "C", "M"], "weights": {"H": 2.0}}]},
    ]  # fmt: skip
    names = [hash_of(), hash_of("e"), *(hash_of(**change) for change in changes)]
    assert len(set(names)) == len(names)


def test_a_frozen_campaign_reads_back_the_same() -> None:
    campaign = load_campaign(CAMPAIGNS / "example.yaml")
    again = parse_campaign(yaml.safe_load(yaml.safe_dump(campaign.model_dump(mode="json"))), "")
    assert again == campaign
