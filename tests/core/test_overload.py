"""When a load counts as too high, and when not any more."""

from __future__ import annotations

from mautrix_sfu.core.overload import FALL, RELEASE, RISE, Hysteresis, Overload


def test_a_short_peak_is_no_overload_and_a_lasting_one_is() -> None:
    measure = Hysteresis()
    assert not measure.update(5.0, 0.0)
    assert not measure.update(5.0, RISE - 0.1)
    assert not measure.update(0.5, RISE)
    assert not measure.update(5.0, RISE + 0.1)
    assert measure.update(5.0, 2 * RISE + 0.2)


def test_it_ends_when_the_load_was_clearly_lower_for_a_while() -> None:
    measure = Hysteresis()
    for now in (0.0, RISE):
        measure.update(1.0, now)
    assert measure.over
    start = RISE
    assert measure.update(RELEASE + 0.01, start + 2 * FALL)  # below the threshold, but not by enough
    assert measure.update(0.1, start + 2 * FALL)
    assert measure.update(0.1, start + 3 * FALL - 0.1)
    assert measure.update(RELEASE, start + 3 * FALL - 0.05)
    assert measure.update(0.1, start + 3 * FALL)
    assert not measure.update(0.1, start + 4 * FALL)


def test_one_measure_is_enough_and_gives_the_cause() -> None:
    overload = Overload()
    for now in (0.0, RISE):
        cause = overload.update({"media_cpu": 0.5, "loop_lag": 1.5}, now)
    assert cause == "loop_lag"
    for now in (RISE, 2 * RISE):
        cause = overload.update({"media_cpu": 1.5, "loop_lag": 1.5}, now)
    assert cause == "media_cpu"
