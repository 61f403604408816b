"""Files of tensors: what becomes an array, and what is refused in one line with a remedy that helps."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.tensor_files import read_state
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.paths import CampaignFolder, read_arrays


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_tensors_of_any_precision_become_arrays(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(
        {"state": {"w": torch.nn.Parameter(torch.tensor([1, -3]).to(dtype), requires_grad=False)}}, tmp_path / "w"
    )
    assert np.array_equal(read_state(tmp_path / "w", "state")["w"], [1, -3])


def test_tensors_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    torch.save({"state": {"w": torch.eye(2).to_sparse()}}, tmp_path / "w")
    with pytest.raises(UserError, match=r"cannot read .*Sparse.*; copy it again, or save the weights alone"):
        read_state(tmp_path / "w", "state")


@pytest.mark.parametrize(
    "read",
    [lambda folder: read_state(folder / "w", "state"), lambda folder: read_arrays(folder / "w.npz"),
     lambda folder: read_model(CampaignFolder(folder).member("H", 0))],
    ids=["state", "arrays", "model"],
)  # fmt: skip
def test_a_file_without_permission_is_not_to_be_removed(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "path")

    for opens in ("zipfile.is_zipfile", "zipfile.ZipFile", "numpy.load"):  # as root no file lacks permission
        monkeypatch.setattr(opens, refuse)
    with pytest.raises(UserError, match=r"^cannot read .*: Permission denied; make it readable$"):
        read(tmp_path)
