"""How much memory conversations may take where no one says it."""

from __future__ import annotations

import logging

import pytest
import torch
from conversations import TINY, play, policy

from trainers.policies import hf, room
from trainers.policies.cached import cache_shape
from trainers.policies.kv_cache import CacheShape, KVCache


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes what a system says, as {path: text}; gives what is then free to this process."""

    def say(**files):
        for path, text in files.items():
            place = tmp_path / path.replace("__", "/").replace("_DOT_", ".")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return list(room._told(tmp_path))

    return say


MACHINE = "MemTotal:       24000 kB\nMemFree:   1 kB\nMemAvailable:   9000 kB\n"


def test_a_machine_says_what_is_available(system):
    assert system(proc__meminfo=MACHINE) == [9000 * 1024]


def test_a_containers_bound_counts_less_what_it_uses_but_for_files(system):
    told = system(
        proc__meminfo=MACHINE,
        sys__fs__cgroup__memory_DOT_max="4000\n",
        sys__fs__cgroup__memory_DOT_current="3000\n",
        sys__fs__cgroup__memory_DOT_stat="anon 5\ninactive_file 700\nactive_file 9\n",
    )
    assert told == [9000 * 1024, 1709]


def test_the_bound_of_a_job_and_of_what_it_is_in_count(system):
    told = system(
        proc__self__cgroup="0::/slurm/job1\n",
        sys__fs__cgroup__slurm__job1__memory_DOT_max="max\n",
        sys__fs__cgroup__slurm__job1__memory_DOT_current="10\n",
        sys__fs__cgroup__slurm__memory_DOT_max="1000\n",
        sys__fs__cgroup__slurm__memory_DOT_current="300\n",
    )
    assert told == [700]
    told = system(
        proc__self__cgroup="5:cpu,cpuacct:/a\n4:memory:/a\n",
        sys__fs__cgroup__memory__a__memory_DOT_limit_in_bytes="500\n",
        sys__fs__cgroup__memory__a__memory_DOT_usage_in_bytes="600\n",
    )
    assert told == [0]


def test_a_container_without_a_bound_says_nothing(system):
    told = system(sys__fs__cgroup__memory_DOT_max="max\n", sys__fs__cgroup__memory_DOT_current="3000\n")
    assert told == []


def test_a_third_of_it_is_taken(monkeypatch):
    monkeypatch.setattr(room, "_told", lambda: iter([9 << 30, 6 << 30]))
    assert room.room_for_conversations(torch.device("cpu")) == 2 << 30
    monkeypatch.setattr(room, "_told", lambda: iter([]))
    assert room.room_for_conversations(torch.device("cpu")) == 3 << 30
    monkeypatch.setattr(room, "sharers", 2)
    assert room.room_for_conversations(torch.device("cpu")) == 3 << 29
    monkeypatch.setattr(hf, "room_for_conversations", lambda device: 12345)
    assert policy()._engine.cache.max_bytes == 12345
    assert policy(cache_bytes=1 << 20)._engine.cache.max_bytes == 1 << 20


def test_where_room_to_grow_would_cost_rows_there_is_none():
    shape = CacheShape(layers=1, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape, max_bytes=4 * 640 * shape.bytes_per_token)  # four rows of 640 tokens
    names = ["a", "b", "c", "d"]
    assert cache.rows_that_fit(600) == 4
    cache.open(names, 600)  # in steps of a half it would be 896 tokens a row, and two rows
    assert cache.slots == 4 and cache.capacity >= 600 and cache.evictions == 0
    assert cache.bytes <= cache.max_bytes


@pytest.mark.parametrize("ended", [True, False])
def test_a_long_conversation_gives_way_to_many_short_ones(ended):
    shape = CacheShape(layers=1, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape, max_bytes=4096 * shape.bytes_per_token)
    (long,) = cache.open(["long"], 4000)
    long.ids = list(range(4000))
    if ended:
        cache.forget("long")
    rows = cache.rows_that_fit(500)
    assert rows == 8
    for _ in range(2):
        cache.open([str(number) for number in range(rows)], 500)
        assert cache.bytes <= cache.max_bytes
    assert cache.evictions == (not ended)


def test_a_conversation_that_was_shortened_takes_no_more_than_it_needs():
    shape = CacheShape(layers=1, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape, max_bytes=2048 * shape.bytes_per_token)
    (row,) = cache.open(["a"], 2000)
    row.ids = list(range(1990))
    names = ["a", *map(str, range(cache.rows_that_fit(300) - 1))]
    cache.open(names, 300)
    assert cache.bytes <= cache.max_bytes and row.ids == list(range(300))


def test_without_any_room_one_conversation_takes_what_it_needs():
    shape = CacheShape(layers=1, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu"))
    cache = KVCache(shape, max_bytes=0)
    cache.open(["a"], 500)
    assert (cache.slots, cache.capacity) == (1, 512)


def test_conversations_that_are_read_anew_are_told_once(caplog):
    one_row = 512 * cache_shape(TINY.model).bytes_per_token
    with caplog.at_level(logging.WARNING):
        play(policy(cache_bytes=2 * one_row))
    told = [record.getMessage() for record in caplog.records if "read anew every turn" in record.getMessage()]
    assert len(told) == 1 and "cache_bytes" in told[0] and "rollout.batch_size" in told[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        play(policy())
    assert not [record for record in caplog.records if "read anew" in record.getMessage()]
