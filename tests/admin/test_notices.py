"""What the bot tells unasked is merged and spaced, whatever an attacker does."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.admin.notices import MAX_TOPICS, MERGE, Notices


def test_the_first_of_something_is_told_after_a_moment_in_which_more_of_it_is_merged() -> None:
    notices = Notices(60, 600)
    assert notices.next_deadline() is None
    for second in range(2):
        notices.add("limit legs", "The limit legs was reached", second, f"@u{second}:x.org")
    assert notices.next_deadline() == MERGE
    assert notices.take(1.9) == []
    assert notices.take(2.0) == ["The limit legs was reached (2 times in 2 s): @u0:x.org, @u1:x.org"]
    assert notices.take(2.1) == []


def test_the_same_thing_is_not_repeated_for_a_while_and_then_with_how_often_it_was() -> None:
    notices = Notices(60, 600)
    notices.add("a", "A", 0.0)
    assert notices.take(10.0) == ["A"]
    for second in range(20, 120):
        notices.add("a", "A", second)
    assert notices.take(609.0) == []
    assert notices.take(610.0) == ["A (100 times in 9 min 50 s)"]


def test_different_things_wait_for_each_other_and_go_together() -> None:
    notices = Notices(60, 600)
    notices.add("a", "A", 0.0)
    assert notices.take(2.0) == ["A"]
    notices.add("b", "B", 3.0)
    notices.add("c", "C", 40.0)
    assert notices.take(61.0) == []
    assert notices.take(62.0) == ["B", "C"]


def test_who_brings_it_about_is_named_the_most_frequent_first_and_the_rest_is_counted() -> None:
    notices = Notices(60, 600)
    for number in range(1000):
        notices.add("ban", "Banned", 0.0, f"@flood{number}:evil.org")
    for _ in range(50):
        notices.add("ban", "Banned", 0.0, "@flood7:evil.org")
    (line,) = notices.take(2.0)
    assert line.startswith("Banned (1050 times in 2 s): @flood7:evil.org 51 times, ")
    assert line.endswith("and 97 more"), "no more are kept apart than are worth it"


def test_more_topics_than_there_may_be_go_under_one() -> None:
    notices = Notices(0, 600)
    for number in range(2 * MAX_TOPICS):
        notices.add(f"t{number}", f"T{number}", 0.0)
    lines = notices.take(5.0)
    assert len(lines) == MAX_TOPICS + 1
    assert lines[-1].startswith("other things (50 times")
    notices.add("new", "New", 700.0)
    assert notices.take(703.0) == ["New"], "what was told long ago makes room"


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 50), st.integers(0, 20)), max_size=200))
def test_messages_are_never_closer_than_the_interval_and_nothing_is_lost(events: list[tuple[int, float, int]]) -> None:
    notices = Notices(60, 600)
    now, told, added = 0.0, [], 0
    for topic, pause, times in events:
        now += pause
        for _ in range(times):
            notices.add(str(topic), str(topic), now)
            added += 1
        if notices.take(now):
            told.append(now)
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(told))
    deadline = notices.next_deadline()
    assert deadline is None or notices.take(deadline + 1e-6)
