"""The links that `make quality` puts a call on: what they do to packets, without any network."""

from __future__ import annotations

from bench.quality_link import Condition, Way

PACKETS = 20_000


def sent(condition: Condition, *, interval: float = 0.01, length: int = 1000) -> list[float | None]:
    """When each of many packets arrives, less when it left."""
    way = Way(seed=1)
    way.condition = condition
    arrivals = [(number * interval, way.arrival(number * interval, length)) for number in range(PACKETS)]
    return [None if arrival is None else arrival - left for left, arrival in arrivals]


def test_a_share_of_the_packets_is_lost_one_by_one_or_in_bursts() -> None:
    for burst, least, most in ((1.0, 1.0, 1.1), (5.0, 4.5, 5.5)):
        lost = [way is None for way in sent(Condition(loss=0.05, burst=burst))]
        assert 0.04 < sum(lost) / PACKETS < 0.06
        bursts = sum(now and not before for before, now in zip([False, *lost], lost, strict=False))
        assert least <= sum(lost) / bursts <= most


def test_jitter_delays_without_overtaking_and_late_packets_are_overtaken() -> None:
    found = sent(Condition(delay=0.02, jitter=0.03))
    ways = [way for way in found if way is not None]
    assert len(ways) == PACKETS
    assert min(ways) >= 0.02
    assert max(ways) <= 0.05 + 1e-9
    arrivals = [number * 0.01 + way for number, way in enumerate(ways)]
    assert arrivals == sorted(arrivals)
    late = [way for way in sent(Condition(delay=0.02, late=0.1, late_by=0.04)) if way is not None]
    assert 0.08 < sum(way > 0.05 for way in late) / PACKETS < 0.12


def test_a_rate_is_kept_and_its_queue_is_bounded() -> None:
    found = sent(Condition(delay=0.01, rate=400_000.0, queue=0.2))  # of 800 kbit/s
    ways = [way for way in found if way is not None]
    assert 0.49 < len(ways) / PACKETS < 0.51
    assert max(ways) <= 0.01 + 0.2 + 1000 * 8 / 400_000 + 1e-9
