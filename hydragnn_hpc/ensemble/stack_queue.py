"""The schedule of a run: which worker trains what, attempts, and the end. No processes, files or clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

WorkerId = tuple[int, int]
"""(rank, slot)."""
MemberName = tuple[str, int]
"""(variant, replica)."""


@dataclass(frozen=True)
class Assignment:
    """The replicas of a variant that one worker trains together.

    Attributes
    ----------
    attempt : int
        Counted from 1 within this run.
    alone : bool
        It was assigned with a single member.
    """

    variant: str
    replicas: tuple[int, ...]
    attempt: int
    alone: bool


class StackQueue:
    """Assigns stacks in order; a failed one is tried again up to a limit, the last time each member alone.

    So no member is given up because another in its stack failed. Even where the limit is one attempt, the members of a
    stack get a second one. A member's numbers do not depend on its stack, except for the last digits with some
    engines on a GPU (`member.engine.interface`).

    Parameters
    ----------
    stacks : iterable of (str, tuple of int)
        Variant and the replicas still to be trained.
    attempts : int
        Failed attempts after which a member is given up, provided that it was alone in the last one.

    Attributes
    ----------
    finished : set of MemberName
        Members that have a result from this run.
    given_up : set of MemberName
        Members that this run tries no more.
    """

    def __init__(self, stacks: Iterable[tuple[str, tuple[int, ...]]], attempts: int) -> None:
        self._attempts = attempts
        self._waiting: deque[Assignment] = deque()
        self._running: dict[WorkerId, Assignment] = {}
        self.finished: set[MemberName] = set()
        self.given_up: set[MemberName] = set()
        self.add(stacks)

    def next(
        self, worker: WorkerId, most: Callable[[str], int | None] = lambda variant: None, *, join: bool = False
    ) -> Assignment | None:
        """Return the next assignment for ``worker``; None if it is busy, or nothing waits.

        ``most`` returns how many members of a variant the worker can train together; None where there is no limit. With
        ``join``, other members that wait for their first attempt are merged into it, up to that number.
        """
        if worker in self._running or not self._waiting:
            return None
        assignment = self._waiting.popleft()
        size = most(assignment.variant) or len(assignment.replicas)
        if join and assignment.attempt == 1:
            assignment = self._joined(assignment, size)
        first, rest = assignment.replicas[:size], assignment.replicas[size:]
        if rest:
            self._waiting.appendleft(replace(assignment, replicas=rest, alone=len(rest) == 1))
            assignment = replace(assignment, replicas=first, alone=len(first) == 1)
        self._running[worker] = assignment
        return assignment

    def _joined(self, assignment: Assignment, size: int) -> Assignment:
        """Add waiting members of the same variant to an assignment, until there are ``size``."""
        while len(assignment.replicas) < size:
            other = next((a for a in self._waiting if a.variant == assignment.variant and a.attempt == 1), None)
            if other is None:
                break
            self._waiting.remove(other)
            assignment = replace(assignment, replicas=(*assignment.replicas, *other.replicas), alone=False)
        return assignment

    def add(self, stacks: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Append stacks; members among them that were finished are trained further."""
        for variant, replicas in stacks:
            if replicas:
                self.finished -= {(variant, r) for r in replicas}
                self._waiting.append(Assignment(variant, tuple(replicas), 1, len(replicas) == 1))

    @property
    def variants(self) -> set[str]:
        """Variants with members that wait or are being trained."""
        return {a.variant for a in (*self._waiting, *self._running.values()) if a.replicas}

    def member_done(self, worker: WorkerId, replica: int) -> None:
        """Record that a member has its result; its stack continues without it."""
        running = self._running[worker]
        self.finished.add((running.variant, replica))
        left = tuple(r for r in running.replicas if r != replica)
        self._running[worker] = replace(running, replicas=left)

    def stopped(self, worker: WorkerId) -> None:
        """Record that the worker has saved or returned its stack, which is assigned next."""
        running = self._running.pop(worker)
        if running.replicas:
            self._waiting.appendleft(running)

    def ended(self, worker: WorkerId) -> tuple[Assignment, bool] | None:
        """Record that the worker's attempt is over; it has failed for members that have no result.

        Returns
        -------
        (Assignment, bool) or None
            The members without a result, and whether they are given up; None if there are no such members.
        """
        running = self._running.pop(worker, None)
        if running is None or not running.replicas:
            return None
        final = running.attempt >= self._attempts and running.alone
        if final:
            self.given_up.update((running.variant, r) for r in running.replicas)
        else:
            attempt = running.attempt + 1
            split = attempt >= self._attempts
            groups = [(r,) for r in running.replicas] if split else [running.replicas]
            self._waiting.extend(Assignment(running.variant, group, attempt, len(group) == 1) for group in groups)
        return running, final

    def running(self) -> dict[WorkerId, Assignment]:
        """Return what is being trained, by worker."""
        return dict(self._running)

    @property
    def waiting(self) -> int:
        """Members that wait for a worker."""
        return sum(len(a.replicas) for a in self._waiting)

    @property
    def waiting_stacks(self) -> int:
        """Stacks that wait for a worker."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is being trained."""
        return not self._running

    @property
    def over(self) -> bool:
        """Whether nothing is being trained and nothing waits."""
        return not self._running and not self._waiting


def seconds_left(spent: Collection[float], running: Collection[float], waiting: int, workers: int) -> float | None:
    """Estimate the remaining time of a run in seconds.

    Parameters
    ----------
    spent : collection of float
        Training time in seconds, earlier runs included, of the stack of every member that finished in this run.
    running : collection of float
        Seconds since the start of every stack being trained.
    waiting : int
        Stacks that wait.
    workers : int
        Workers that train or are idle.

    Returns
    -------
    float or None
        None before the first member has finished.
    """
    if not spent:
        return None
    mean = sum(spent) / len(spent)
    left = [max(mean - seconds, 0.0) for seconds in running]
    return max(max(left, default=0.0), (sum(left) + waiting * mean) / max(workers, 1))
