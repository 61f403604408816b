"""``hydragnn-hpc data`` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.cli.data_show import check_values, show
from hydragnn_hpc.dataset import store
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import Moments
from tests.campaigns import called
from tests.dataset.synthetic import reseal


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program, in this process."""
    return called(Path.cwd(), "data", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw/ and small.bp."""
    folder = tmp_path_factory.mktemp("data")
    assert command("generate", str(folder / "raw"), "--cap", "8").returncode == 0
    done = command("prepare", str(folder / "raw"), str(folder / "small.bp"))
    assert done.returncode == 0, done.stderr
    assert "206.0 directed edges per geometry" in done.stdout and "mixing_enthalpy" in done.stdout
    return folder


@pytest.mark.parametrize("width", [1, 20])
def test_names_and_units_of_targets_do_not_control_a_terminal(
    made: Path, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = store.read_manifest(made / "small.bp")
    evil, target = "\x1b[2Jevil", manifest.targets["mixing_enthalpy"]
    ends = {"minimum": [0.0] * width, "maximum": [1.0] * width}
    targets = {evil: target.model_copy(update={"unit": evil, "width": width, **ends})}
    moments = {evil: Moments(mean=[0.0] * width, std=[1.0] * width)}
    show(
        manifest.model_copy(update={"targets": targets}),
        made,
        manifest.distribution.model_copy(update={"targets": moments}),
    )
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and shown.count(r"\x1b[2Jevil") >= 2


def test_info_shows_the_content(made: Path) -> None:
    shown = command("info", str(made / "small.bp"), "--verify")
    assert shown.returncode == 0 and "verified" in shown.stdout
    content = json.loads(command("info", str(made / "small.bp"), "--json").stdout)
    assert content["sizes"]["S"] == sum(content["split"]) == 250


def test_info_shows_and_draws_the_distribution(made: Path) -> None:
    """A picture that PIL can open, of a page's width, that is not blank; a PDF; the numbers in the table."""
    from PIL import Image

    for name in ("a.png", "a.pdf"):
        shown = command("info", str(made / "small.bp"), "--figure", str(made / name))
        assert shown.returncode == 0 and f"histograms: {made / name}" in shown.stdout.replace("\n", ""), shown.stderr
        assert "100 %" in shown.stdout and "mean" in shown.stdout
    with Image.open(made / "a.png") as picture:
        assert picture.width > 1000 and (np.asarray(picture.convert("L")) < 200).mean() > 0.02
    assert (made / "a.pdf").read_bytes().startswith(b"%PDF")
    content = json.loads(command("info", str(made / "small.bp"), "--json").stdout)
    assert sum(content["distribution"]["elements"]["26"]) == 250


def test_info_of_a_data_set_whose_manifest_lacks_the_distribution(made: Path) -> None:
    old = Path(shutil.copytree(made / "small.bp", made / "old.bp"))
    new = json.loads((old / "manifest.json").read_text())["distribution"]
    reseal(old, distribution=None)
    assert json.loads(command("info", str(old), "--json").stdout)["distribution"] == new


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "{raw}"], "exists and is not empty"),
        (["generate", "{new}", "--cap", "0"], "--cap 0: must be at least 1"),
        (["generate", "{new}", "--seed", "-1"], "--seed -1: must be 0 or positive"),
        (["prepare", "{new}", "{new}.bp"], "no such file or folder"),
        (["prepare", "{raw}", "{bp}"], "--force"),
        (["prepare", "{raw}", "{new}.bp", "--cutoff", "7"], "with its unit"),
        (["prepare", "{raw}", "{new}.bp", "--cutoff", "1e9bohr"], "--cutoff 1e9bohr: at most 200 bohr"),
        (["prepare", "{raw}", "{new}.bp", "--boundary", "opne"], "did you mean 'open'"),
        (["prepare", "{raw}", "{new}.bp", "--fractions", "0.5,0.5"], "three numbers"),
        (["prepare", "{raw}", "{new}.bp", "--cell", "1 2 3"], "--cell '1 2 3': expected 3 edge lengths"),
        (["prepare", "{raw}", "{new}.bp", "--cell", "1 2 bohr"], "--cell '1 2 bohr': expected 3 edge lengths"),
        (["prepare", "{raw}", "{new}.bp", "--end-member", "Xx=1"], "no element"),
        (["prepare", "{raw}", "/proc/nowhere/x.bp"], "cannot write"),
        (["prepare", "{raw}", "{new}.bp", "--seed", "-1"], "--seed -1"),
        (["prepare", "{raw}", "{new}.bp", "--cap", "-1"], "--cap -1"),
        (["prepare", "{raw}", "{new}.bp", "--boundary", "periodic"], "give --cell"),
        (["prepare", "{raw}", "{new}.bp", "--cell", "1 2 nan bohr"], "expected 3 edge lengths"),
        (
            ["prepare", "{raw}", "{new}.bp", "--cell", "1 2 3 miles"],
            "'miles' is not a unit of length; give bohr or angstrom",
        ),
        (["prepare", "{raw}", "{new}.bp", "--scale-over", "test"], "--scale-over test; known: all, train"),
        (["prepare", "{raw}", "{new}.bp", "--on-error", "skp"], "did you mean 'skip'"),
        (["prepare", "{raw}", "{new}.bp", "--end-member", "Au=-1"], "hold no Au"),
        (["prepare", "{raw}", "{new}"], "ends in .bp"),
        (["prepare", "{empty}", "{new}.bp"], "{empty}: contains no files"),
        (["prepare", "{bp}", "{new}.bp"], "{bp}: is a data set of this program already"),
        (["prepare", "{bp}/data.0", "{new}.bp"], "data.0: is in none of the formats"),
        (["prepare", "{raw}", "{new}.bp", "--target", "e=graph:energy:eV"], "is read as LSMS text"),
        (["prepare", "{raw}", "{new}.bp", "--target", "e=graph:energy:ev"], "did you mean 'eV'"),
        (["prepare", "{raw}", "{new}.bp", "--format", "lmsm"], "did you mean 'lsms'"),
        (["prepare", "{raw}", "{new}.bp", "--format", "extxyz", "--target", "e=graph:energy:eV"], "frame 0, line 1"),
        (["prepare", "{raw}", "{new}.bp", "--split-by", "symetry"], "did you mean 'symmetry'"),
        (["split", "{bp}", "{new}.bp", "--split-by", "composition", "--seed", "-1"], "--seed -1"),
        (["split", "{bp}", "{new}.bp", "--fractions", "1,0,0"], "--fractions 1,0,0"),
        (["split", "{bp}", "{bp}"], "--force"),
        (["split", "{raw}", "{new}.bp"], "is not a complete data set of this program: manifest.json is missing"),
        (["split", "{bp}", "{new}.bp", "--scale-over", "tran"], "did you mean 'train'"),
        (["generate", "{new}.xyz", "--system", "ternery"], "did you mean 'ternary'"),
        (["generate", "{new}", "--system", "CuAu"], "a name that ends in .extxyz"),
        (["generate", "{new}", "--system", "CuAu", "--format", "lsms"], "only FePt"),
        (["generate", "{new}", "--sizes", "1x1x1"], "FePt has one cell size"),
        (["generate", "{new}.xyz", "--system", "CuAu", "--sizes", "1x1"], "--sizes 1x1"),
        (["generate", "{new}.xyz", "--system", "CuAu", "--cap", "0"], "--cap 0"),
        (["generate", "/proc/nowhere/x.xyz", "--system", "CuAu"], "cannot write"),
        (["convert", "{raw}", "{new}.bp", "--cutoff", "7"], "with its unit"),
        (["convert", "{raw}", "{new}", "--to", "lmsm"], "did you mean 'lsms'"),
        (["convert", "{raw}", "{new}"], "is lsms already"),
        (["convert", "{raw}", "{bp}"], "--force"),
        (["info", "{bp}", "--figure", "{new}.jpg"], "written as .png or .pdf"),
        (["info", "{bp}", "--figure", "/proc/nowhere/x.png"], "cannot write"),
        (["info", "{bp}/data.0"], "is a file"),
        (["info", "{raw}"], "is not a complete data set of this program: manifest.json is missing"),
        (["info", "{new}.bp"], "no such data set"),
    ],
)
def test_a_mistake_is_reported_in_one_line(made: Path, arguments: list[str], message: str) -> None:
    places = {"raw": str(made / "raw"), "bp": str(made / "small.bp"), "new": str(made / "new")}
    places["empty"] = str(made / "empty")
    (made / "empty").mkdir(exist_ok=True)
    found = command(*(a.format(**places) for a in arguments))
    assert found.returncode == 2
    errors = [line for line in found.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and message.format(**places) in errors[0], found.stderr
    assert not [p.name for p in made.glob("new*")]


def test_damage_is_reported_by_verifying(made: Path) -> None:
    copy = Path(shutil.copytree(made / "small.bp", made / "copy.bp"))
    data = bytearray((copy / "data.0").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "data.0").write_bytes(data)
    assert command("info", str(copy)).returncode == 0  # what the manifest says needs no data
    done = command("info", str(copy), "--verify")
    assert done.returncode == 2 and "data.0 is damaged" in done.stderr and "verified" not in done.stdout


def test_values_that_differ_from_the_manifest_are_reported(made: Path) -> None:
    """Damage that every checksum fits: a manifest sealed with another range."""
    file = made / "small.bp"
    manifest, arrays = store.read(file)
    check_values(manifest, arrays, file)
    for name in ("mixing_enthalpy", "magnetic_moment"):
        for change, message in ((np.nan, "the number of missing values"), (99.0, "range")):
            hurt = {**arrays, f"target_{name}": arrays[f"target_{name}"].copy()}
            hurt[f"target_{name}"][3] = change
            with pytest.raises(UserError, match=f"{message} of target .{name}"):
                check_values(manifest, hurt, file)
    with pytest.raises(UserError, match="the split differs"):
        check_values(manifest, {**arrays, "split": np.zeros_like(arrays["split"])}, file)


def test_every_option_of_prepare_reaches_the_data_set(made: Path) -> None:
    out = made / "periodic.bp"
    options = ["--boundary", "periodic", "--cell", "20.872 10.436 14.116 bohr", "--cap", "4", "--seed", "3"]
    options += ["--fractions", "0.5,0.25,0.25", "--scale-over", "train", "--end-member", "Fe=-2541.5"]
    options += ["--cutoff", "3.7angstrom", "--on-error", "skip"]
    assert command("prepare", str(made / "raw"), str(out), *options).returncode == 0
    content = json.loads(command("info", str(out), "--json", "--verify").stdout)
    assert content["verified"] and content["scaled_over"] == "train"
    assert content["neighbours"]["boundary"] == "periodic"
    assert content["neighbours"]["cutoff_bohr"] == pytest.approx(6.99199, abs=1e-4)
    assert content["sizes"]["E"] == 384 and content["neighbours"]["fewest"] == content["neighbours"]["most"] == 12
    source = content["source"]
    assert (source["cap"], source["seed"], source["fractions"]) == (4, 3, [0.5, 0.25, 0.25])
    assert source["end_members"]["26"] == -2541.5
    assert command("prepare", str(made / "raw"), str(out)).returncode == 2
    assert command("prepare", str(made / "raw"), str(out), "--force").returncode == 0
    assert json.loads(command("info", str(out), "--json").stdout)["neighbours"]["boundary"] == "open"


def test_splitting_again_by_symmetry(made: Path) -> None:
    out = made / "again.bp"
    options = ["--split-by", "symmetry", "--cell", "20.872 10.436 14.116 bohr", "--seed", "2"]
    done = command("split", str(made / "small.bp"), str(out), *options)
    assert done.returncode == 0, done.stderr
    assert "symmetry classes of 250 samples; 0 of" in done.stdout
    content = json.loads(command("info", str(out), "--json", "--verify").stdout)
    assert content["verified"] and content["source"]["split_by"] == "symmetry" and content["source"]["seed"] == 2


def test_a_data_set_as_extended_xyz_and_back(made: Path) -> None:
    done = command("convert", str(made / "small.bp"), str(made / "small.extxyz"))
    assert done.returncode == 0 and "250 structures as extxyz" in done.stdout, done.stderr
    assert "not held by extxyz: neighbour lists" in done.stdout
    assert command("convert", str(made / "small.extxyz"), str(made / "back.bp")).returncode == 0
    contents = [json.loads(command("info", str(made / f"{n}.bp"), "--json").stdout) for n in ("small", "back")]
    assert contents[0]["targets"] == contents[1]["targets"] and contents[0]["split"] == contents[1]["split"]
    assert contents[1]["source"]["split_by"] == "source"


@pytest.mark.parametrize("name", ["generate", "prepare", "split", "convert", "info"])
def test_help_has_an_example_that_is_a_command(name: str) -> None:
    shown = command(name, "--help").stdout
    assert all(ord(letter) < 0x3000 for letter in shown)  # no :word: has turned into a picture
    assert name != "prepare" or "NAME=LEVEL:KEY:UNIT[:LABEL]" in shown
    assert f"Example: hydragnn-hpc data {name}" in " ".join(shown.split())
