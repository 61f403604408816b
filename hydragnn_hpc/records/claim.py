"""The attempt that may write a member's files, and the number of the latest run."""

from __future__ import annotations

from hydragnn_hpc.records.base import FileRecord


class RunNumber(FileRecord):
    """``run.json``: how many runs the campaign has had, the current one included."""

    run: int


class Claim(FileRecord):
    """``claim.json``: the attempt to which a member's folder belongs.

    Attributes
    ----------
    run : int
        See `RunNumber`.
    assignment : int
        Number of the assignment within the run.
    """

    run: int
    assignment: int

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the later of two claims is the greater."""
        return self.run, self.assignment

    def __str__(self) -> str:
        return f"assignment {self.assignment} of run {self.run}"
