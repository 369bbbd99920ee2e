"""The threads that ask an endpoint: bounded, and gone when nobody needs them."""

import gc
import threading
import time

import pytest

from trainers.policies.threads import LeftThreads


def running():
    return [thread for thread in threading.enumerate() if thread.name == "endpoint"]


def wait_until(happened):
    deadline = time.monotonic() + 30
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happened()


def test_calls_are_carried_out_by_no_more_threads_than_allowed_which_end_with_their_owner():
    before = set(running())
    threads = LeftThreads(3)
    assert [future.result(30) for future in [threads.submit(pow, n, 2) for n in range(50)]] == [
        n * n for n in range(50)
    ]
    assert 1 <= len(set(running()) - before) <= 3
    del threads
    gc.collect()
    assert wait_until(lambda: set(running()) <= before)


def test_what_a_call_raises_is_its_futures():
    with pytest.raises(ZeroDivisionError):
        LeftThreads(1).submit(lambda: 1 / 0).result(30)


def test_after_the_end_waiting_calls_are_cancelled_and_new_ones_refused():
    threads, begun, go_on = LeftThreads(1), threading.Event(), threading.Event()
    first = threads.submit(lambda: begun.set() or go_on.wait(30))
    assert begun.wait(30)
    second = threads.submit(int)
    threads.shutdown(cancel_futures=True)
    go_on.set()
    assert first.result(30) is True and second.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(int)
