"""One run of a campaign: all ranks start together, and then each enters its loop."""

from __future__ import annotations

import os
import time

from hydragnn_hpc.atomic import storage_errors
from hydragnn_hpc.ensemble import folder as campaign_folder
from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.controller import Controller
from hydragnn_hpc.ensemble.launcher import detect
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.ensemble.messenger import connect, placements
from hydragnn_hpc.ensemble.options import RunOptions
from hydragnn_hpc.ensemble.supervisor import Rank
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import Frozen
from hydragnn_hpc.paths import CampaignFolder


def run(options: RunOptions) -> ExitCode:
    """Train a campaign's unfinished members; the same call on every rank. Collective at its start only.

    Returns
    -------
    ExitCode
        The same on every rank.

    Raises
    ------
    UserError
        On rank 0; the other ranks return the error's exit code.
    """
    started = time.monotonic()
    launch = detect(os.environ)
    messenger = connect(launch, options.start_seconds)
    folder = CampaignFolder(options.out.absolute())
    lock = RunLock(folder.lock)
    complaint = "not all ranks have started (one has ended, or the campaign's file system hangs)"
    with startup.watched(startup.SECONDS, complaint, lambda: messenger.abort(int(ExitCode.AGAIN))):
        ranks = placements(messenger, launch, options.local_rank)
        controller, failure = None, None
        begun: Frozen | ExitCode = ExitCode.USAGE
        if messenger.rank == 0:
            try:
                plan = _begin(options, folder, lock)
                deadline = None if options.seconds is None else started + options.seconds
                controller = Controller(plan, folder, ranks, deadline, lambda: options.on_change(folder.root))
                begun = plan.frozen
            except Exception as error:  # raised once all ranks have its exit code, so that none waits forever
                failure = error
                begun = error.exit_code if isinstance(error, UserError) else ExitCode.USAGE
                lock.release()
        begun = messenger.share(begun)[0]
    if isinstance(begun, ExitCode):
        messenger.close(int(begun))
        if failure is not None:
            raise failure
        return begun
    rank = Rank(options, folder, begun.campaign, messenger, ranks)
    if controller is not None:
        rank.controller, rank.lock = controller, lock
    return rank.run()


def _begin(options: RunOptions, folder: CampaignFolder, lock: RunLock) -> campaign_folder.RunPlan:
    """Rank 0: read and check the campaign, take the lock, and freeze the configuration in the folder."""
    campaign_folder.read_plan(options.campaign, options.overrides, folder)  # raises before anything is written
    with storage_errors(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    try:
        # Read again: another run may have ended while this one waited for its lock.
        plan = campaign_folder.read_plan(options.campaign, options.overrides, folder)
        plan = campaign_folder.begin(plan, folder)
    except BaseException:
        lock.release()
        raise
    return plan
