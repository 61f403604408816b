"""Campaigns and machine profiles that YAML would take for something else are refused, with the line and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hydragnn_hpc import yaml_files
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.submit.site import load_site

ROOT = Path(__file__).parents[1]
CAMPAIGN = """\
name: plain
dataset: here.bp
tasks:
  H: {level: graph, field: mixing_enthalpy}
variants: [H]
"""
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
CONTENT = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=12
)


@given(CONTENT)
@example({"\x85": "\u2028", "µ": None})
def test_what_was_written_comes_back(content: Any) -> None:
    assert yaml_files.parse(yaml_files.dump(content)) == content


@pytest.mark.parametrize("text", ["[", "{a: ", "- "])
def test_depth_without_end_is_an_error(text: str) -> None:
    with pytest.raises(yaml_files.YAML_ERRORS):
        yaml_files.parse(text * 300_000)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("name: again\n", "the key 'name' appears twice, in lines 1 and 6; remove one of the two"),
        ("training: {epochs: 3}\ntraining: {batch_size: 4}\n", "the key 'training' appears twice, in lines 6 and 7"),
        ("training: {epochs: 3, epochs: 4}\n", "the key 'epochs' appears twice, in line 6"),
        ("'name': again\n", "the key 'name' appears twice, in lines 1 and 6"),
        ("seed: 010\n", "line 6: 010 is an octal or sexagesimal number in YAML; .* in quotes: '010'"),
        ("seed: 1:30\n", "line 6: 1:30 is an octal or sexagesimal number in YAML; .* in quotes: '1:30'"),
        ("model: {layers: 2026-08-01}\n", "line 6: 2026-08-01 is a date in YAML; .*write '2026-08-01' in quotes"),
        ("seed: 2026-99-01\n", "line 6: 2026-99-01 is a date in YAML"),
        ("yes: 3\n", "line 6: the key yes is not text in YAML; write it in quotes"),
        ("12: 3\n", "line 6: the key 12 is not text in YAML; write it in quotes"),
        ("[a, b]: 3\n", "line 6: a list or a section stands in the place of a key"),
        ("training: {epochs: yes}\n", "training: epochs: in YAML yes, no, .* in quotes"),
        ("model: {graph_head: [true]}\n", "model: graph_head: in YAML yes, no, .* in quotes"),
        ("seed: on\n", "seed: in YAML yes, no, .* in quotes"),
        ("training:\n  <<: {epochs: 3}\n  <<: {epochs: 4}\n", "the key '<<' appears twice, in lines 7 and 8"),
        ("model: {layers: !!set {a}}\n", "line 6: the tag !!set is not used here; remove it"),
        ("seed: !!binary aGVsbG8=\n", "line 6: the tag !!binary is not used here"),
        ("seed: =\n", "line 6: the tag !!value is not used here; remove it, or use quotes"),
        ("training:\n\tepochs: 3\n", "line 7: a tab before the key; YAML is indented with spaces"),
    ],
)
def test_a_campaign_that_yaml_would_change_is_refused(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN)
    assert load_campaign(path).seed == 0
    path.write_text(CAMPAIGN + more)
    with pytest.raises(UserError, match=message):
        load_campaign(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: plain", "name: no", "name: in YAML yes, no, .* in quotes"),
        ("name: plain", "name: 12", r"name: .*valid string \(given: 12\); write it in quotes"),
        ("name: plain", "name: 1.5", r"name: .*\(given: 1.5\); write it in quotes"),
        ("name: plain", "name: ~", r"name: .*\(given: None\); write it in quotes"),
        ("  H:", "  no:", "line 4: the key no is not text in YAML"),
        ("variants: [H]", "variants: [{name: H, tasks: [H], weights: {H: true}}]", "weights: in YAML yes, no"),
    ],
)
def test_a_name_that_yaml_reads_as_something_else_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN.replace(old, new))
    with pytest.raises(UserError, match=message):
        load_campaign(path)


def test_quotes_help(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN.replace("plain", "'no'").replace("H:", "'010':").replace("[H]", "['010']"))
    campaign = load_campaign(path, ["name='12'"])
    assert campaign.name == "12" and campaign.variants[0].tasks == ("010",)


@pytest.mark.parametrize("text", ["010", "2026-08-01", "{a: 1, a: 2}", "true"])
def test_values_set_on_the_command_line_are_held_to_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN)
    with pytest.raises(UserError, match=r"in quotes|appears twice"):
        load_campaign(path, [f"training.epochs={text}"])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["seed=1", "replicas=2", "seed=3"], "--set seed=1 would be lost by --set seed=3; remove one of the two"),
        (["training.epochs=3", "training={batch_size: 8}"], "--set training.epochs=3 would be lost by --set training="),
    ],
)
def test_a_value_that_is_set_twice_is_refused(tmp_path: Path, sets: list[str], message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN)
    with pytest.raises(UserError, match=message):
        load_campaign(path, sets)
    assert load_campaign(path, ["training={batch_size: 8}", "training.epochs=3"]).training.epochs == 3
    assert load_campaign(path, ["seed=3", "replicas=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("variants: X\n", r"variants: Input should be a list: \[...\] \(given: 'X'\)"),
        ("inputs: []\n", "inputs: List should have at least 1 item"),
        ("training: {samples: 50%}\n", r"training.samples: Input should be 'all', or: .*integer.* \(given: '50%'\)"),
        ("launch: {stack: 0}\n", "launch.stack: Input should be 'auto', or: .*greater than or equal to 1"),
        ("training: {early_stopping: 10}\n", r"early_stopping: Input should be a section: {key: value} \(given: 10\)"),
        ("training: {optimizer: adam}\n", r"optimizer: Input should be a section: .*\(given: 'adam'\)"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words_of_yaml(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text((CAMPAIGN.replace("variants: [H]\n", "") if more.startswith("variants") else CAMPAIGN) + more)
    with pytest.raises(UserError, match=message):
        load_campaign(path)


def test_text_that_is_not_utf_8_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("# Ångström\n".encode("latin-1") + CAMPAIGN.encode())
    with pytest.raises(UserError, match="save it as UTF-8"):
        load_campaign(path)


def test_a_machine_profile_that_yaml_would_change_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "jobs" / "sites" / "local.yaml").read_text()
    path = tmp_path / "mine.yaml"
    lines = text.count("\n")
    for more, message in (
        ("name: again\n", f"the key 'name' appears twice, in lines .* and {lines + 1}"),
        ("usual_nodes: true\n", "usual_nodes: in YAML yes, no"),
        ("usual_nodez: 1\n", "unknown key 'usual_nodez'; did you mean 'usual_nodes'"),
    ):
        path.write_text(text + more)
        with pytest.raises(UserError, match=message):
            load_site(str(path))
    assert load_site("local").name == "local"


def test_merge_keys_and_aliases_are_not_repetitions() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n"
    assert yaml_files.parse(text)["b"] == {"x": 3, "y": 2}
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert len(yaml_files.parse(bomb)) == 30
