"""Learning curves for TensorBoard, one run per member; needs the extra ``tensorboard``, which works without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hydragnn_hpc.atomic import new_folder
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.analysis.content import Content


def write_scalars(content: Content) -> list[Path]:
    """Write every member's history as TensorBoard scalars into ``report/tensorboard/VARIANT/REPLICA``.

    They replace those of an earlier report; the paths of the new files are returned.

    Raises
    ------
    UserError
        If tensorboardX is not installed, or the folder cannot be written.
    """
    try:
        # Not FileWriter, which writes in a thread of its own: an error of the file system there cannot be caught.
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboardX; pip install 'hydragnn-hpc[tensorboard]'") from error
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    folder = content.results.folder.tensorboard
    with new_folder(folder, replace=folder.is_dir()) as made:
        for name, history in content.histories.items():
            (made / name).mkdir(parents=True)
            writer = EventsWriter(str(made / name / "events"))
            for epoch, key, value in _known(history):
                writer.write_event(Event(wall_time=time.time(), step=epoch, summary=scalar(key, value)))
            writer.close()
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _known(history: pd.DataFrame) -> Iterator[tuple[int, str, float]]:
    """Yield epoch, column and value of a history, but for missing values."""
    for row in history.dropna(subset="epoch").to_dict("records"):
        for key, value in row.items():
            if key != "epoch" and pd.notna(value):
                yield int(row["epoch"]), str(key), float(value)
