"""Sampling order: every item once an epoch, batches of one kind, few shards open at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.learning.datasets.sampler import make_batches, shuffle_items

sizes = st.lists(st.integers(1, 9), max_size=12)


@given(sizes, st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 5))
def test_an_order_holds_each_item_once_and_few_at_a_time(
    shard_sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    shards = np.repeat(np.arange(len(shard_sizes)), shard_sizes)
    order = shuffle_items(shards, window, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(shards)))
    np.testing.assert_array_equal(order, shuffle_items(shards, window, seed, epoch))
    held, left = 0, set(range(len(shards)))
    opened: set[int] = set()
    for item in order.tolist():  # a shard is read as a whole when the first of it is wanted
        shard = int(shards[item])
        if shard not in opened:
            opened.add(shard)
            held += shard_sizes[shard]
        held -= 1
        left.remove(item)
        assert held < window + max(shard_sizes)
    assert not left


@given(
    st.lists(st.integers(0, 3), max_size=40), st.integers(1, 7), st.booleans(), st.integers(0, 9)
)
def test_batches_are_of_one_kind_and_come_when_they_are_complete(
    kinds: list[int], batch_size: int, drop_last: bool, seed: int
) -> None:
    of = np.array(kinds, np.int64)
    order = np.random.default_rng(seed).permutation(len(of))
    epoch = make_batches(order, of, batch_size, drop_last)
    batches = [epoch.batch(n).tolist() for n in range(len(epoch))]
    expected, short = [], []
    waiting: dict[int, list[int]] = {}
    for item in order.tolist():  # the rule as one would say it
        waiting.setdefault(kinds[item], []).append(item)
        if len(waiting[kinds[item]]) == batch_size:
            expected.append(waiting[kinds[item]])
            waiting[kinds[item]] = []
    short = [rest for rest in waiting.values() if rest]
    assert batches == expected + ([] if drop_last else short)
    turns = epoch.batch_of_each(len(of))
    assert all(turns[item] == n for n, batch in enumerate(batches) for item in batch)
    assert np.count_nonzero(turns < 0) == (sum(map(len, short)) if drop_last else 0)


def test_orders_are_random_and_stay_so_in_years_to_come() -> None:
    shards = np.repeat(np.arange(4), 3)
    orders = {tuple(shuffle_items(shards, 4, seed, e)) for seed in range(50) for e in range(2)}
    assert len(orders) == 100
    firsts = np.bincount([order[0] for order in orders], minlength=12)
    assert firsts.min() > 0
    assert shuffle_items(shards, 12, 1, 0).tolist() == [9, 2, 4, 7, 5, 0, 11, 8, 10, 6, 3, 1]
    assert shuffle_items(shards, 4, 1, 0).tolist() == [0, 7, 2, 8, 1, 10, 6, 5, 9, 3, 4, 11]
