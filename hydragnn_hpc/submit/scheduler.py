"""Handing a job script to the machine's scheduler, and remembering under which number it took it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import now
from hydragnn_hpc.paths import CampaignFolder

COMMANDS = {"slurm": ["sbatch", "--parsable"], "lsf": ["bsub"], "pbs": ["qsub"], "flux": ["flux", "batch"]}
"""The command that takes a script. LSF's reads it from standard input; the others are given its path."""

PATIENCE_SECONDS = 120


def submit(scheduler: str, script: Path) -> str:
    """Hand ``script`` to the scheduler; return the job's identifier.

    Raises
    ------
    UserError
        If the scheduler is not on this host, does not answer, or refuses the job.
    """
    command = COMMANDS[scheduler]
    if shutil.which(command[0]) is None:
        raise UserError(
            f"'{command[0]}' is not on this host, so no {scheduler} job can be submitted from here; log in to the "
            "machine, or look at the script with --dry-run"
        )
    from_input = scheduler == "lsf"
    try:
        done = subprocess.run(
            command if from_input else [*command, str(script)],
            input=script.read_text(encoding="utf-8") if from_input else None,
            stdin=None if from_input else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"'{command[0]}' gave no answer for {PATIENCE_SECONDS} s; look at the queue, then again"
        ) from error
    if done.returncode:
        words = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-2:])
        raise UserError(f"'{command[0]}' refused the job: {words}; the script is {script}")
    return job_id(scheduler, done.stdout)


def job_id(scheduler: str, answer: str) -> str:
    """Read the job's identifier out of the scheduler's answer.

    Raises
    ------
    UserError
        If it is not there.
    """
    text = answer.strip()
    if scheduler == "lsf":
        found = re.search(r"Job <(\d+)>", text)
        text = found[1] if found else ""
    elif scheduler == "slurm":
        text = text.splitlines()[-1].split(";")[0] if text else ""
    else:
        text = text.splitlines()[-1] if text else ""
    if not text:
        raise UserError(f"the scheduler's answer names no job: {answer.strip()!r}; look at the queue")
    return text


def record(folder: CampaignFolder, entry: dict[str, object]) -> None:
    """Append a submitted job to ``jobs/submitted.jsonl``."""
    line = json.dumps({"time": now(), **entry}, ensure_ascii=False) + "\n"
    # One write of one line at the end of the file: two submissions at once do not tear each other's.
    handle = os.open(folder.job_record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
