"""The ladder of capacities, as a law: enough room, not too much, no to and fro."""

import hypothesis.strategies as st
from hypothesis import example, given

import growthnet as gn


LADDERS = st.builds(
    gn.Buckets,
    st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 5, 64]),
)


@given(LADDERS, st.integers(1, 5_000))
def test_a_capacity_holds_its_units_and_no_rung_below_does(ladder, units):
    capacity = ladder.capacity(units)
    assert capacity >= units and ladder.capacity(capacity) == capacity
    rungs = sorted({ladder.capacity(n) for n in range(1, units + 1)})
    assert rungs[-1] == capacity and all(rung < units for rung in rungs[:-1])


@given(LADDERS, st.integers(1, 5_000), st.integers(1, 5_000), st.integers(0, 100))
@example(gn.Buckets(), 128, 40, 0)
@example(gn.Buckets(1.25, 8), 64, 50, 0)
def test_a_width_moves_down_once_and_has_slack_there(ladder, above, units, least):
    capacity = ladder.capacity(max(above, units))
    lower = ladder.lowered(capacity, units, least)
    assert max(units, min(least, capacity)) <= lower <= capacity
    assert ladder.lowered(lower, units, least) == lower
    if lower < capacity:
        # As many more as half a rung fit before it moves up again.
        assert lower >= int(units * ladder.ratio**0.5)
    elif capacity > max(least, ladder.capacity(1)):
        # It stays where it is used well, or where the rung below hasn't that slack.
        assert units * ladder.ratio**1.5 > capacity or (
            ladder.capacity(int(units * ladder.ratio**0.5 + 0.999)) >= capacity
        )


def test_a_third_of_a_width_is_worth_another_program():
    assert gn.Buckets().lowered(1024, 400) == 1024
    assert gn.Buckets().lowered(1024, 360) == 512
