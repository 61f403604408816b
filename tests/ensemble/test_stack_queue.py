"""The schedule: every member ends exactly once, whatever happens and however many workers there are."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.ensemble.stack_queue import Assignment, StackQueue, seconds_left
from hydragnn_hpc.ensemble.stack_sizes import even_stack

stacks_strategy = st.lists(
    st.tuples(st.sampled_from(["HCM", "HC", "H"]), st.integers(1, 4)), min_size=1, max_size=6
).map(lambda sizes: [(f"{v}{k}", tuple(range(n))) for k, (v, n) in enumerate(sizes)])


@given(stacks=stacks_strategy, workers=st.integers(1, 5), attempts=st.integers(1, 4), seed=st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_every_member_ends_exactly_once(
    stacks: list[tuple[str, tuple[int, ...]]], workers: int, attempts: int, seed: int
) -> None:
    rng = random.Random(seed)
    queue = StackQueue(stacks, attempts)
    names = [(variant, r) for variant, replicas in stacks for r in replicas]
    limit = {(v, r): attempts if len(replicas) == 1 else max(attempts, 2) for v, replicas in stacks for r in replicas}
    tried: Counter[tuple[str, int]] = Counter()
    steps = 0
    while not queue.over:
        steps += 1
        assert steps < 10_000, "the schedule does not come to an end"
        worker = (rng.randrange(workers), 0)
        running = queue.running()
        held = [(a.variant, r) for a in running.values() for r in a.replicas]
        assert len(held) == len(set(held)), "a member is trained twice at once"
        if worker not in running:
            assignment = queue.next(worker)
            if assignment is not None:
                for replica in assignment.replicas:
                    tried[assignment.variant, replica] += 1
            continue
        left = running[worker].replicas
        what = rng.choice(["member", "member", "ended", "stopped"])
        if what == "member" and left:
            queue.member_done(worker, rng.choice(left))
        elif what == "ended":
            failed = queue.ended(worker)
            assert (failed is None) == (not left)
            for replica in left:
                assert failed is not None and replica in failed[0].replicas
                assert failed[1] == (failed[0].attempt == limit[failed[0].variant, replica])
        elif what == "stopped":
            queue.stopped(worker)
            for replica in left:
                tried[running[worker].variant, replica] -= 1
    assert queue.finished | queue.given_up == set(names)
    assert not queue.finished & queue.given_up
    assert all(1 <= tried[name] <= limit[name] for name in names)


def test_the_last_attempt_is_made_alone() -> None:
    queue = StackQueue([("HCM", (0, 1, 2))], attempts=2)
    queue.next((0, 0))
    queue.member_done((0, 0), 1)
    assert queue.ended((0, 0)) == (Assignment("HCM", (0, 2), attempt=1, alone=False), False)
    first, second = queue.next((0, 0)), queue.next((1, 0))
    assert first is not None and second is not None
    assert (first.replicas, second.replicas, first.attempt) == ((0,), (2,), 2)


def test_the_only_attempt_of_a_stack_is_not_its_members_last() -> None:
    queue = StackQueue([("H", (0, 1)), ("M", (0,))], attempts=1)
    queue.next((0, 0))
    queue.next((1, 0))
    queue.member_done((0, 0), 1)
    # The other member may have caused the failure.
    assert queue.ended((0, 0)) == (Assignment("H", (0,), attempt=1, alone=False), False)
    assert queue.ended((1, 0)) == (Assignment("M", (0,), attempt=1, alone=True), True)
    queue.next((0, 0))
    assert queue.ended((0, 0)) == (Assignment("H", (0,), attempt=2, alone=True), True)


def test_a_stack_that_does_not_fit_is_assigned_in_pieces_and_loses_no_attempt() -> None:
    queue = StackQueue([("HCM", (0, 1, 2, 3, 4)), ("H", (0,))], attempts=1)
    queue.next((0, 0))
    queue.member_done((0, 0), 1)
    queue.stopped((0, 0))
    pieces = []
    while found := queue.next((0, len(pieces)), {"HCM": 3}.get):
        pieces.append((found.variant, found.replicas, found.attempt, found.alone))
    assert pieces == [("HCM", (0, 2, 3), 1, False), ("HCM", (4,), 1, True), ("H", (0,), 1, True)]


def test_members_are_joined_for_their_first_attempt_only() -> None:
    queue = StackQueue([("H", (0,)), ("M", (0,)), ("H", (1,)), ("M", (1,)), ("H", (2,)), ("H", (3,))], attempts=2)
    joined = [queue.next((0, slot), lambda _: 3, join=True) for slot in range(3)]
    assert [(a.variant, a.replicas, a.alone) for a in joined if a] == [
        ("H", (0, 1, 2), False), ("M", (0, 1), False), ("H", (3,), True),
    ]  # fmt: skip
    queue.ended((0, 0))
    again = [queue.next((0, 0), lambda _: 3, join=True), queue.next((1, 0), lambda _: 3, join=True)]
    assert [a.replicas for a in again if a] == [(0,), (1,)], "one member's failure counts for others"


@pytest.mark.parametrize(
    ("members", "workers", "expected"),
    [(84, 84, 1), (84, 200, 1), (84, 42, 2), (84, 14, 6), (84, 12, 6), (84, 7, 12), (84, 1, 12), (5, 2, 3)],
)
def test_stacks_share_members_evenly(members: int, workers: int, expected: int) -> None:
    assert even_stack(members, workers, 12 if members > 12 else members) == expected


def test_time_left_is_estimated_in_whole_stacks() -> None:
    assert seconds_left([], [10.0], 3, 1) is None
    # Four members of one stack end together: the other three must not make the estimate of the rest too short.
    assert seconds_left([100.0], [100.0], 20, 1) == seconds_left([100.0] * 4, [], 20, 1) == 2000.0
    assert seconds_left([100.0], [30.0, 150.0], 2, 2) == 135.0
    assert seconds_left([100.0], [30.0, 150.0], 0, 2) == 70.0
