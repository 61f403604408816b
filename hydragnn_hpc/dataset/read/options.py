"""Options for preparing a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hydragnn_hpc.dataset.read import derive
from hydragnn_hpc.dataset.read.targets import TargetSpec


@dataclass(frozen=True)
class Options:
    """Options for preparing a data set; lengths in bohr, energies in Ry.

    Attributes
    ----------
    cutoff : float
        Neighbours are closer than this.
    periodic : bool or None
        Whether images count as neighbours; None: as the source states (LSMS text: open).
    cell : tuple of float or None
        Nine numbers, rows are lattice vectors, where the source gives none.
    form : str
        Format of the source, one of :data:`hydragnn_hpc.dataset.read.formats.FORMATS` or ``auto``.
    targets : tuple of TargetSpec
        What to take from structure files; none for LSMS text, which has its own.
    cap : int
        Maximum number of samples per composition; 0 keeps all.
    fractions : tuple of float
        Of samples in the training, validation and test sets.
    seed : int
        Seed of the split and of the samples that ``cap`` keeps.
    keep_repeated : bool
        Whether samples of the same species on the same sites are all kept.
    split_by : {"auto", "composition", "symmetry", "groups", "random", "source"}
        What the split keeps in proportion, or together (:func:`hydragnn_hpc.dataset.build.select.split`); ``auto``:
        the first of composition, groups and random that leaves enough samples to validate and test; ``source``: as each
        structure states (:func:`hydragnn_hpc.dataset.read.parts.stated_part`).
    scale_over : {"all", "train"}
        Samples over which minimum and maximum are taken.
    end_members : dict
        Energy of pure elements by proton number, Ry per atom; those not given are determined from the data.
    on_error : {"fail", "skip"}
        What to do with a structure that cannot be used.
    on_outlier : {"tell", "fail", "skip"}
        What to do with a value so far from all others that scaling hides their differences: make a remark, refuse the
        data, or leave its sample out.
    purpose : {"train", "convert"}
        ``train`` leaves out structures marked as isolated atoms; ``convert`` keeps them.
    """

    cutoff: float = 7.0
    periodic: bool | None = None
    cell: tuple[float, ...] | None = None
    form: str = "auto"
    targets: tuple[TargetSpec, ...] = ()
    cap: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
    keep_repeated: bool = False
    split_by: str = "auto"
    scale_over: str = "all"
    end_members: derive.EndMembers = field(default_factory=dict)
    on_error: str = "fail"
    on_outlier: str = "tell"
    purpose: Literal["train", "convert"] = "train"
