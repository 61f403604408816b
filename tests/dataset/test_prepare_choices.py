"""Preparing data of several elements and geometries, with repeats, damaged files and invalid options."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from synthetic import alloys, remarks_of, write_raw

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours, parse_length
from hydragnn_hpc.dataset.read.formats.lsms import LsmsSample, format_sample
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import sample_names

pytestmark = pytest.mark.usefixtures("written_here")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fe-Co-Pt cells of 2 to 4 atoms on three geometries."""
    return write_raw(tmp_path_factory.mktemp("mixed") / "raw", alloys(120))


def archive(folder: Path, path: Path) -> Path:
    """The folder's files in a tar archive, mixed up."""
    files = sorted(folder.iterdir())
    random.Random(1).shuffle(files)
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            tar.add(file, f"deep/{file.name}")
    return path


def names(bp: Path) -> list[str]:
    """The samples' names, in order."""
    return sample_names(store.read(bp)[1])


def test_the_order_of_an_archive_does_not_matter_with_many_geometries(mixed: Path, tmp_path: Path) -> None:
    folder = prepare(mixed, tmp_path / "a.bp", Options())
    tar = prepare(archive(mixed, tmp_path / "raw.tgz"), tmp_path / "b.bp", Options())
    assert folder.sizes["G"] == 3 and folder.sha256 == tar.sha256
    assert names(tmp_path / "b.bp") == sorted(names(tmp_path / "a.bp"), key=lambda n: int(n[4:]))


def test_files_of_one_name_in_several_folders_are_all_read_in_one_order(tmp_path: Path) -> None:
    hashes = []
    for first, second in (("a", "b"), ("b", "a")):
        root = tmp_path / first / "raw"
        samples = alloys(60)
        write_raw(root / first, samples[:30])
        write_raw(root / second, [LsmsSample(f"out_{k}", s.energies, s.table) for k, s in enumerate(samples[30:])])
        manifest = prepare(root, tmp_path / first / "x.bp", Options())
        hashes.append(manifest.sha256)
        assert manifest.plain()["source"]["read"] == 60
    assert hashes[0] == hashes[1]


def test_the_manifest_counts_what_happened(tmp_path: Path) -> None:
    copies = alloys(120)
    raw = write_raw(tmp_path / "raw", copies)
    for k, old in enumerate(copies[20:25]):
        repeated = LsmsSample(f"out_9{k:02d}", old.energies + 1, old.table)  # the same sites and species
        (raw / repeated.name).write_text(format_sample(repeated))
    (raw / "notes.txt").write_text("not LSMS\n")
    (raw / "out_999").write_text((raw / "out_8").read_text().replace("\n", "\nnan ", 1))
    with pytest.raises(UserError, match="--on-error skip"):
        prepare(raw, tmp_path / "x.bp", Options())
    assert not (tmp_path / "x.bp").exists()
    source = prepare(raw, tmp_path / "x.bp", Options(on_error="skip", cap=4)).plain()["source"]
    assert source["read"] == 125 and source["skipped"] == 2 and len(source["skipped_reasons"]) == 2
    assert source["read"] == source["repeated"] + source["capped"] + source["kept"]
    assert source["repeated"] >= 5 and source["samples_per_composition"]["maximum"] == 4
    assert source["species"] == [26, 27, 78] and source["end_members"].keys() == {"26", "27", "78"}
    assert (source["cap"], source["seed"], source["fractions"]) == (4, 0, [0.7, 0.15, 0.15])
    assert not {f"out_9{k:02d}" for k in range(5)} & set(names(tmp_path / "x.bp")), "of repeats, a later one stayed"


def test_a_cap_of_zero_keeps_all(mixed: Path, tmp_path: Path) -> None:
    source = prepare(mixed, tmp_path / "x.bp", Options(cap=0)).plain()["source"]
    assert source["capped"] == 0 and source["kept"] == 120 - source["repeated"]


def test_end_members_may_be_given(mixed: Path, tmp_path: Path) -> None:
    found = prepare(mixed, tmp_path / "a.bp", Options())
    given = prepare(mixed, tmp_path / "b.bp", Options(end_members={26: -2700.0}))
    assert given.plain()["source"]["end_members"]["26"] == -2700.0
    for other in ("27", "78"):
        assert given.plain()["source"]["end_members"][other] == found.plain()["source"]["end_members"][other]
    (_, a), (_, b) = store.read(tmp_path / "a.bp"), store.read(tmp_path / "b.bp")
    iron = np.add.reduceat(a["atomic_numbers"] == 26, a["atom_offsets"][:-1], dtype=int)
    change = -2700.0 - found.plain()["source"]["end_members"]["26"]
    np.testing.assert_allclose(
        b["target_mixing_enthalpy"][:, 0], a["target_mixing_enthalpy"][:, 0] - change * iron, atol=1e-6
    )
    with pytest.raises(UserError, match=r"the data hold no Au \(they hold Fe, Co, Pt\)"):
        prepare(mixed, tmp_path / "c.bp", Options(end_members={79: -1.0}))


def test_an_element_without_pure_cell_needs_its_end_member(tmp_path: Path) -> None:
    samples = [s for s in alloys(60) if set(s.atomic_numbers) != {78}]
    raw = write_raw(tmp_path / "raw", samples)
    with pytest.raises(UserError, match="--end-member Pt="):
        prepare(raw, tmp_path / "x.bp", Options())
    prepare(raw, tmp_path / "x.bp", Options(end_members={78: -7800.0}))


def test_a_constant_target_is_reported_and_does_not_prevent_preparing(tmp_path: Path) -> None:
    samples = alloys(60)
    for sample in samples:
        sample.table[:, 6] = 1.5
    manifest = prepare(write_raw(tmp_path / "raw", samples), tmp_path / "x.bp", Options())
    assert "'magnetic_moment' is constant (1.5 μB)" in remarks_of(manifest)["constant-target"]
    assert manifest.targets["magnetic_moment"].minimum == manifest.targets["magnetic_moment"].maximum == [1.5]


def test_contradictions_and_odd_distances_are_reported(tmp_path: Path) -> None:
    options = Options(targets=parse_targets(["e=graph:energy:eV"]), fractions=(0.5, 0.25, 0.25), split_by="random")
    pairs = [(f"{0.05 * k + 1:.2f}", k) for k in range(8)] + [("1.00", 99), ("0.30", 8), ("70", 9)]
    text = "".join(f"2\nProperties=species:S:1:pos:R:3 energy={e}\nCu 0 0 0\nAu 0 0 {z}\n" for z, e in pairs)
    (tmp_path / "a.xyz").write_text(text)
    found = remarks_of(prepare(tmp_path / "a.xyz", tmp_path / "x.bp", options))
    assert (
        "1 sample with the species and sites of another" in found["contradictions"]
        and "a.xyz@8 repeats a.xyz@0" in found["contradictions"]
    )
    assert "two atoms of a.xyz@9 are 0.567 bohr apart" in found["close-atoms"]
    assert "2 atoms without a neighbour within 7 bohr" in found["no-neighbours"]


def test_a_repeat_with_a_value_is_kept_before_one_without(tmp_path: Path) -> None:
    options = Options(targets=parse_targets(["e=graph:energy:eV"]), fractions=(0.5, 0.25, 0.25), split_by="random")
    pairs = [(1.0, "nan"), *((1 + 0.05 * k, k) for k in range(1, 8)), (1.0, "nan"), (1.0, 42), (1.05, "nan")]
    text = "".join(f"2\nProperties=species:S:1:pos:R:3 energy={e}\nCu 0 0 0\nAu 0 0 {z}\n" for z, e in pairs)
    (tmp_path / "a.xyz").write_text(text)
    prepare(tmp_path / "a.xyz", tmp_path / "x.bp", options)
    manifest, arrays = store.read(tmp_path / "x.bp")
    assert manifest.source.repeated == 3 and "contradictions" not in remarks_of(manifest)
    energies = arrays["target_e"][:, 0]
    assert not np.isnan(energies).any() and energies.max() == 42


def test_values_too_large_for_a_variance_are_refused(tmp_path: Path) -> None:
    pairs = zip(range(1, 9), [*range(7), "-1e308"], strict=True)
    text = "".join(f"2\nProperties=species:S:1:pos:R:3 energy={e}\nCu 0 0 0\nAu 0 0 {z}\n" for z, e in pairs)
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(UserError, match=r"frame 7: 'energy' reaches 1e\+308"):
        prepare(tmp_path / "a.xyz", tmp_path / "x.bp", Options(targets=parse_targets(["e=graph:energy:eV"])))


def test_small_compositions_are_reported_in_one_line(mixed: Path, tmp_path: Path) -> None:
    manifest = prepare(mixed, tmp_path / "x.bp", Options(split_by="composition"))
    line = remarks_of(manifest)["small-compositions"]
    assert line.startswith(f"{manifest.source.compositions_too_small_to_split} compositions have too few samples")


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    message = r"too few samples to split by composition .*; give more samples, other --fractions, or --split-by random$"
    with pytest.raises(UserError, match=message):
        prepare(write_raw(tmp_path / "raw", alloys(9)), tmp_path / "x.bp", Options(split_by="composition"))
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    with pytest.raises(UserError, match=r"split at random \(samples: 2\); give more samples or other --fractions$"):
        prepare(write_raw(tmp_path / "two", alloys(2)), tmp_path / "x.bp", Options(split_by="random"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(cap=-1), "--cap -1"),
        (Options(periodic=True), "--cell"),
        (Options(periodic=True, cell=(3.0,) + (0.0,) * 8), "cell with a volume"),
        (Options(periodic=True, cell=(9.0, 0, 0, 0, 9.0, 0, 0, 0, 9.0), cutoff=5000.0), "check the units"),
        (Options(fractions=(0.9, 0.2, 0.1)), "--fractions"),
    ],
)
def test_invalid_options_are_refused_and_leave_nothing(
    mixed: Path, tmp_path: Path, options: Options, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(mixed, tmp_path / "x.bp", options)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_file(mixed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare(mixed, tmp_path / "x.bp", Options(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 120) for k in range(1, 121)]


@pytest.mark.realdata
@pytest.mark.slow
def test_the_open_data_are_those_of_the_paper(real_bp: Path) -> None:
    """Facts of the open data set, doi.org/10.13139/OLCF/1762742; the numbers of edges by cutoff and boundary."""
    manifest, a = store.read(real_bp)
    source = manifest.plain()["source"]
    assert source["read"] == 32_015 and source["skipped"] == 0 and source["kept"] == manifest.sizes["S"] == 27_908
    assert source["end_members"] == {"26": -81312.254486010526307 / 32, "78": -1179752.354600224411115 / 32}
    assert source["compositions"] == 33 and manifest.sizes["G"] == 1 and manifest.sizes["E"] == 206
    ranges = {"mixing_enthalpy": (0, 65.918), "charge_transfer": (-5.310, 0.847), "magnetic_moment": (-0.0516, 3.8078)}
    for name, expected in ranges.items():
        target = manifest.targets[name]
        assert [*target.minimum, *target.maximum] == pytest.approx(expected, abs=6e-4)
    # Campaigns record this hash of their data; with another, none of them could be continued.
    assert manifest.sha256 == "b58487b7d5023ea3b1edcddf2140b09866a94b5e6e5db2dde232d35b8c907f51"
    cell = np.diag([20.872, 10.436, 14.116])
    for cutoff, periodic, edges in (("7bohr", False, 206), ("7angstrom", False, 714), ("7bohr", True, 384)):
        found = find_neighbours(Geometry(a["pos"], cell, (periodic,) * 3), parse_length(cutoff))
        assert len(found.neighbours) == edges
    sums = np.add.reduceat(a["target_charge_transfer"][:, 0], a["atom_offsets"][:-1])
    assert np.abs(sums).max() < 1.3e-5, "a cell is not neutral"
