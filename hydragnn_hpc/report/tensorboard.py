"""Learning curves for TensorBoard, one run per member; needs the extra ``tensorboard``, which works without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from hydragnn_hpc.atomic import storage_errors
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.analysis.content import Content


def write_scalars(content: Content) -> list[Path]:
    """Write every member's history as TensorBoard scalars into ``report/tensorboard/VARIANT/REPLICA``.

    Files of an earlier report are replaced; the paths of the new ones are returned.

    Raises
    ------
    UserError
        If the writer is not installed, or the folder cannot be written.
    """
    try:
        from tensorboardX.writer import FileWriter
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboardX; pip install 'hydragnn-hpc[tensorboard]'") from error
    from tensorboardX.summary import scalar

    folder: CampaignFolder = content.results.folder
    with storage_errors(folder.tensorboard):
        shutil.rmtree(folder.tensorboard, ignore_errors=True)
        for name, history in content.histories.items():
            writer = FileWriter(str(folder.tensorboard / name), max_queue=1000)
            for row in _finite(history):
                for key, value in row.items():
                    if key != "epoch":
                        writer.add_summary(scalar(key, value), global_step=int(row["epoch"]))
            writer.close()
    return sorted(p for p in folder.tensorboard.rglob("*") if p.is_file())


def _finite(history: pd.DataFrame) -> list[dict[str, float]]:
    numeric = history.apply(pd.to_numeric, errors="coerce").dropna(subset="epoch")
    return [{str(k): float(v) for k, v in row.items() if pd.notna(v)} for row in numeric.to_dict("records")]
