"""Whether a job goes on in a further one: ``python -m hydragnn_hpc.submit.chain begin OUT`` and ``... end OUT CODE``.

Job scripts call ``begin`` ahead of the launcher and ``end`` after it. ``end`` exits with 75 when the campaign is to be
run again, else with the campaign's own exit code. The members' files decide, not the launcher's code alone: a node that
failed makes a launcher exit with any code, and the members tell what is left to do.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import State, read_frozen, read_members
from hydragnn_hpc.logs import tell
from hydragnn_hpc.paths import CampaignFolder, read_json, write_json

UNFINISHED = (State.WAITING, State.RUNNING, State.INTERRUPTED)


def progress_mark(folder: CampaignFolder) -> str:
    """Return a mark that changes with every result and every checkpoint."""
    mark = hashlib.sha256()
    for path in sorted(folder.members.glob("*/*/*")):
        if path.name in ("result.json", "checkpoint.pt"):
            found = path.stat()
            mark.update(f"{path.relative_to(folder.root)}|{found.st_size}|{found.st_mtime_ns}\n".encode())
    return mark.hexdigest()


def begin(folder: CampaignFolder) -> None:
    """Count the run, and remember how far the campaign is."""
    folder.jobs.mkdir(parents=True, exist_ok=True)
    write_json(folder.job_chain, {"runs": int(_read(folder).get("runs", 0)) + 1, "mark": progress_mark(folder)})


def restart(folder: CampaignFolder) -> None:
    """Start counting again: a user submits."""
    folder.job_chain.unlink(missing_ok=True)


def end(folder: CampaignFolder, code: int, runs: int) -> tuple[int, str]:
    """Decide what follows a run that ended with ``code``: return the exit code, and the reason in words.

    75: run again. At most ``runs`` runs are made in a row, and none after one that moved nothing.
    """
    if code == ExitCode.USAGE:
        return code, "the campaign cannot be run as it is; the line above says why"
    if not folder.campaign.exists():
        return code or 1, "the campaign did not start; see the output above"
    members = read_members(folder, read_frozen(folder).campaign)
    left = sum(m.state in UNFINISHED for m in members)
    if not left:
        failed = sum(m.state is not State.FINISHED for m in members)
        return (ExitCode.MEMBERS_FAILED, f"done; {failed} members failed") if failed else (ExitCode.DONE, "done")
    before = _read(folder)
    if before.get("mark") == progress_mark(folder):
        return 1, f"stopped: {left} members are left, but this run finished no epoch of any; give it more time"
    if int(before.get("runs", 1)) >= runs:
        return 1, f"stopped: {left} members are left after {runs} runs in a row; submit again to go on"
    return ExitCode.AGAIN, f"{left} members are left; to be run again"


def _read(folder: CampaignFolder) -> dict[str, Any]:
    try:
        content = read_json(folder.job_chain)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def main() -> None:
    """Run from a job script."""
    parser = argparse.ArgumentParser(prog="python -m hydragnn_hpc.submit.chain")
    parser.add_argument("moment", choices=("begin", "end"))
    parser.add_argument("out", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    parser.add_argument("--runs", type=int, default=50)
    given = parser.parse_args()
    folder = CampaignFolder(given.out)
    try:
        if given.moment == "begin":
            begin(folder)
            return
        code, words = end(folder, given.code, given.runs)
    except UserError as error:
        tell(f"hydragnn-hpc: error: {error}")
        sys.exit(error.exit_code)
    tell(f"hydragnn-hpc: {words}")
    sys.exit(code)


if __name__ == "__main__":
    main()
