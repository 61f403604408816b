"""Names of files, folders and accounts that a shell would execute arrive as they are, or are refused in a line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit import render
from hydragnn_hpc.submit.site import load_site, site_names
from tests.campaigns import called
from tests.submit.paper import ROOT, plan_of, write_campaign
from tests.submit.programs import stand_in

FITTING = [
    "a b", "it's", 'say "x"', "$(touch executed)", "`touch executed`", "a; touch executed;", "a && touch executed",
    "-rf", "$HOME", "*", "~", "# x", "a\\", "{account}", "{{ 7 * 7 }}", "%j", "'$(touch executed)'",
    '"$(touch executed)"', "|x",
]  # fmt: skip
REFUSED = ["a\ntouch executed\n", "a\r\ntouch executed", "\x1b[31m", "\udcff", "a\u0085b"]


def script(site: str, out: Path, campaign: Path, account: str = "abc", overrides: tuple[str, ...] = ()) -> str:
    """Return the paper's script with these names."""
    machine = load_site(site)
    job = render.Job(campaign, CampaignFolder(out), "fept", ROOT, campaign.parents[1] / "bin", overrides, account)
    return render.render(job, machine, plan_of(machine))


@pytest.mark.parametrize("name", FITTING)
def test_the_local_script_executes_no_name(name: str, tmp_path: Path) -> None:
    """Run under bash, with stand-ins for the launcher and for Python that print their words."""
    for program, body in (("mpirun", 'printf "%s\\0" "$@"'), ("python", 'printf "%s\\n" "$@" >&2')):
        stand_in(tmp_path, program, body)
    folder = tmp_path / name
    folder.mkdir()
    made = script("local", folder / name, folder / f"{name}.yaml", overrides=(f"name={name}",))
    (tmp_path / "job.sh").write_text(made)
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], cwd=tmp_path, capture_output=True, text=True, check=True)
    words = done.stdout.split("\0")
    assert words[:4] == ["-n", "2", "hydragnn-hpc", "run"]
    assert words[4:8] == [f"{folder / name}.yaml", str(folder / name), "--set", f"name={name}"]
    # A day, less 180 s to stop.
    assert words[8] == "--time-limit" and 86_120 <= int(words[9].removesuffix("s")) <= 86_220
    assert done.stderr.splitlines()[:5] == ["-P", "-m", "hydragnn_hpc.submit.chain", "begin", str(folder / name)]
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("site", site_names())
@pytest.mark.parametrize("name", FITTING)
def test_only_comments_precede_the_first_command(site: str, name: str, tmp_path: Path) -> None:
    """Schedulers read these lines; a name in them neither ends a line nor is cut at a space."""
    header = script(site, tmp_path / name, tmp_path / "in" / f"{name}.yaml").split("\n\n")[0].splitlines()
    plain = script(site, tmp_path / "out", tmp_path / "in" / "c.yaml").split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in header)
    for line, other in zip(header, plain, strict=True):
        assert line == other or re.fullmatch(r".*(-o |--output=).*", other), line


@pytest.mark.parametrize("site", site_names())
@pytest.mark.parametrize("name", REFUSED)
def test_what_ends_a_line_is_refused(site: str, name: str, tmp_path: Path) -> None:
    folder, campaign = tmp_path / "out", tmp_path / "in" / "c.yaml"
    for out, file, account, message in (
        (tmp_path / name, campaign, "abc", "the campaign's folder"),
        (folder, tmp_path / "in" / name, "abc", "the campaign file"),
        (folder, campaign, name, "--account"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            script(site, out, file, account)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("account", ["a b", "$(touch executed)", "`touch executed`", "a;b", 'a"b', "a'b", "#"])
def test_invalid_accounts_are_refused(account: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected letters, digits"):
        script("slurm", tmp_path / "out", tmp_path / "in" / "c.yaml", account)


def test_refusals_of_the_command_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "data.bp").mkdir()
    write_campaign(tmp_path)
    for arguments in (
        ["a\ntouch executed\n", "--site", "local"],
        ["out", "--site", "slurm", "--account", "$(x)\ntouch y"],
    ):
        done = called(tmp_path, "submit", "c.yaml", *arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml", "data.bp"]
