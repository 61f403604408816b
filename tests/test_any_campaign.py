"""Any campaign: it is restored from its folder and from ``--set``, misspelt keys are reported, draws repeat."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc import ledger
from hydragnn_hpc.campaign_file import load_campaign, parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign, member_seed
from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder

CAMPAIGNS = Path(__file__).parents[1] / "jobs" / "campaigns"
SMALL = {
    "name": "small",
    "dataset": "a.bp",
    "tasks": {"H": {"level": "graph", "field": "mixing_enthalpy"}, "C": {"level": "node", "field": "charge_transfer"}},
    "variants": ["HC"],
}

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,8}", fullmatch=True) | st.sampled_from(
    ["1e5", "no", "0x1F", "1_0"]
)
names_of_data = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
positive = st.floats(1e-12, 1e12)
counts = st.integers(1, 10**6)
widths = st.lists(counts, max_size=3)


def sections(edges: st.SearchStrategy[Any], epochs: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """Return what model, training and launch may be."""
    share, floor = st.floats(0, 1, exclude_min=True, exclude_max=True), st.floats(0, 1)
    able = [name for name, c in CONVOLUTIONS.items() if c.edges == "optional"]
    model = {
        "convolution": st.sampled_from(able), "edges": edges, "layers": counts, "channels": counts,
        "pooling": st.sampled_from(["mean", "sum", "max"]), "graph_head": widths, "node_head": widths,
    }  # fmt: skip
    optimizer = {"name": st.sampled_from(["Adam", "AdamW"]), "learning_rate": positive, "weight_decay": floor}
    plateau = {"factor": share, "patience": st.integers(0, 99), "minimum": floor}
    training = {
        "epochs": counts, "batch_size": counts, "optimizer": st.fixed_dictionaries(optimizer),
        "schedule": st.sampled_from(["plateau", "cosine"]), "plateau": st.none() | st.fixed_dictionaries(plateau),
        "cosine": st.fixed_dictionaries({"epochs": epochs, "minimum": floor, "warmup": st.integers(0, 99)}),
        "early_stopping": st.none() | st.fixed_dictionaries({"patience": counts}),
        "engine": st.sampled_from(["auto", "fused", "torch"]),
    }  # fmt: skip
    launch = {
        "slots_per_device": counts, "stack": counts, "attempts": counts, "threads": counts,
        "device": st.sampled_from(["auto", "cpu"]), "checkpoint_seconds": floor, "silence_seconds": positive,
    }  # fmt: skip
    return {
        "model": st.fixed_dictionaries(model),
        "training": st.fixed_dictionaries(training).map(fitting),
        "launch": st.fixed_dictionaries(launch),
    }


def fitting(training: dict[str, Any]) -> dict[str, Any]:
    """Return a training whose warm-up is within the cosine's epochs, and whose minimum is below the learning rate."""
    cosine, rate = training["cosine"], training["optimizer"]["learning_rate"]
    cosine["warmup"] = min(cosine["warmup"], cosine["epochs"] or training["epochs"])
    cosine["minimum"] = min(cosine["minimum"], rate)
    return training


@st.composite
def campaigns(draw: st.DrawFn, text: st.SearchStrategy[str] = names_of_data) -> Campaign:
    """Draw any campaign, whose data set and fields have names from ``text``."""
    task = {
        "level": st.sampled_from(["graph", "node"]), "field": text, "weight": positive,
        "reference": st.sampled_from(["none", "composition", "species", "linear"]),
    }  # fmt: skip
    tasks = draw(st.dictionaries(names, st.fixed_dictionaries(task), min_size=1, max_size=3))
    some = st.lists(st.sampled_from(sorted(tasks)), min_size=1, unique=True)
    weights = st.dictionaries(st.sampled_from(sorted(tasks)), positive)
    variant = st.fixed_dictionaries({"name": names, "tasks": some, "weights": weights})
    shells = {"name": "shells", "number": draw(st.integers(1, 200))}
    given_ = {
        "name": draw(names), "dataset": draw(text), "tasks": tasks,
        "variants": draw(st.lists(variant, min_size=1, max_size=3, unique_by=lambda v: v["name"])),
        "inputs": draw(st.permutations([*draw(st.sampled_from([["species"], ["composition", "ewald"]])), shells])),
        "replicas": draw(st.integers(1, 100_000)), "seed": draw(st.integers(0, 2**63 - 1)),
    }  # fmt: skip
    maybe = sections(st.none() | st.fixed_dictionaries({"number": st.integers(2, 1000)}), st.none() | counts)
    return parse_campaign({**given_, **draw(st.fixed_dictionaries(maybe))}, "drawn")


@settings(max_examples=60, deadline=None)
@given(campaigns())
def test_any_campaign_comes_back_from_its_folder_under_the_same_hash(
    tmp_path_factory: pytest.TempPathFactory, campaign: Campaign
) -> None:
    folder = CampaignFolder(tmp_path_factory.mktemp("frozen"))
    ledger.freeze(folder, ledger.Frozen(campaign, config_hash(campaign, "d"), "d"))
    found = ledger.read_frozen(folder)
    assert found.campaign == campaign
    assert config_hash(found.campaign, "d") == found.hash == config_hash(campaign, "d")


@settings(max_examples=60, deadline=None)
@given(campaigns(), campaigns(), st.data())
def test_only_what_has_an_effect_changes_the_hash(campaign: Campaign, other: Campaign, data: st.DataObject) -> None:
    """Defaults come and go, and keys without an effect take any value; every other value names another campaign."""
    before = config_hash(campaign, "d")
    bare = campaign.model_dump(mode="json", exclude_defaults=True)
    whole = campaign.model_dump(mode="json")
    for section in ("model", "training", "launch"):
        written = data.draw(st.sets(st.sampled_from(sorted(whole[section]))), label=section)
        bare.setdefault(section, {}).update({key: whole[section][key] for key in written})
    assert config_hash(parse_campaign(bare, ""), "d") == before

    off = ("launch", ["slots_per_device", "attempts", "checkpoint_seconds", "silence_seconds"])
    schedule = ("training", ["plateau" if campaign.training.schedule == "cosine" else "cosine"])
    levels = {campaign.tasks[task].level for variant in campaign.variants for task in variant.tasks}
    heads = ("model", [f"{level}_head" for level in ("graph", "node") if level not in levels])
    without_effect = {(section, key) for section, keys in (off, schedule, heads) for key in keys}
    for section in ("model", "training", "launch"):
        for key in whole[section]:
            theirs = other.model_dump(mode="json")[section][key]
            changed = {**whole, section: {**whole[section], key: theirs}}
            try:
                same = config_hash(parse_campaign(changed, ""), "d") == before
            except UserError:  # the two do not fit each other
                continue
            if (section, key) in without_effect or theirs == whole[section][key]:
                assert same, (section, key)
            elif (section, key) not in (("model", "pooling"), ("training", "cosine"), ("training", "epochs")):
                assert not same, (section, key)


def leaves(content: dict[str, Any], where: str) -> Iterator[str]:
    """Yield ``key.key=value`` for every value of a section, and for what is in it."""
    for key, value in content.items():
        yield f"{where}{key}={json.dumps(value)}"
        if isinstance(value, dict):
            yield from leaves(value, f"{where}{key}.")


@settings(max_examples=60, deadline=None)
@given(campaign=campaigns(st.text(st.characters(min_codepoint=33, max_codepoint=1000, exclude_categories=["C", "Z"]),
                                  min_size=1, max_size=8)), data=st.data())  # fmt: skip
def test_any_campaign_can_be_set_key_by_key(
    tmp_path_factory: pytest.TempPathFactory, campaign: Campaign, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("set") / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    everything = list(leaves(campaign.model_dump(mode="json"), ""))
    found = load_campaign(path, everything)
    assert found.model_copy(update={"dataset": campaign.dataset}) == campaign
    again = data.draw(st.permutations(everything))
    path.write_text(yaml.safe_dump(campaign.model_dump(mode="json")))
    assert load_campaign(path, again) == found


def sections_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """Yield the place of every section of a campaign with the keys known there."""
    if isinstance(value, dict):
        if value and place != ("tasks",) and place[-1:] != ("weights",):
            yield place, list(value)
        value = value.items()
    elif isinstance(value, list):
        value = enumerate(value)
    else:
        return
    for key, inner in value:
        yield from sections_of(inner, (*place, key))


WHOLE = parse_campaign(
    {**SMALL, "inputs": ["species", {"name": "shells"}], "model": {"edges": {"number": 9}}}, ""
).model_dump(mode="json")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), added=st.booleans())
def test_any_key_misspelt_anywhere_is_refused_with_the_right_one(data: st.DataObject, added: bool) -> None:
    place, known = data.draw(st.sampled_from(sorted(sections_of(WHOLE), key=str)))
    key = data.draw(st.sampled_from(known))
    at, letter = data.draw(st.integers(0, len(key) - 1)), data.draw(st.sampled_from("aexz_"))
    wrong = data.draw(st.sampled_from([key[:at] + key[at + 1 :], key[:at] + letter + key[at:], key + letter]))
    changed = copy.deepcopy(WHOLE)
    section = changed
    for part in place:
        section = section[part]
    section[wrong] = section[key] if added else section.pop(key)
    shown = ".".join(str(part) for part in (*place, wrong))
    with pytest.raises(UserError) as caught:
        parse_campaign(changed, "file.yaml")
    assert str(caught.value) == f"file.yaml: unknown key '{shown}'; did you mean '{key}'?"


@given(st.sets(st.tuples(st.integers(0, 12), st.text("01|a", max_size=2), st.integers(0, 12)), max_size=40))
def test_seeds_of_different_members_differ(members: set[tuple[int, str, int]]) -> None:
    assert len({member_seed(*member) for member in members}) == len(members)


DRAWN = """
import sys
from pathlib import Path
import numpy as np
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.config import member_seed
from hydragnn_hpc.dataset.build import select
counts = np.repeat([[1, 3], [2, 2], [3, 1]], [40, 60, 30], axis=0)
print(member_seed(7, "HCM", 3), config_hash(load_campaign(Path(sys.argv[1])), "d"))
print(select.cap_per_composition(counts, 20, 5).tolist())
for by in select.SPLIT_BY:
    print(select.split(by, counts, (0.6, 0.2, 0.2), 5, np.arange(130) // 3).part.tolist())
"""


def test_what_is_drawn_is_the_same_in_every_process() -> None:
    """Python hashes text differently in every process by default: nothing drawn may depend on it."""
    outputs = set()
    for hashed in ("0", "1", "random"):
        done = subprocess.run(
            [sys.executable, "-c", DRAWN, str(CAMPAIGNS / "example.yaml")],
            env={**os.environ, "PYTHONHASHSEED": hashed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(done.stdout)
    assert len(outputs) == 1
