"""Threads for questions to an endpoint."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

_Calls = queue.SimpleQueue["tuple[Future[Any], Callable[[], Any]] | None"]


class LeftThreads(Executor):
    """Threads that Python leaves behind when it ends.

    Those of `concurrent.futures.ThreadPoolExecutor` it waits for, so a run that is interrupted would stay until the
    endpoint has answered, or until its timeout has passed.
    """

    def __init__(self, most: int) -> None:
        """Args:
        most: threads at once; each starts when it is needed.
        """
        self._most, self._started, self._closed = most, 0, False
        self._calls: _Calls = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        weakref.finalize(self, self._calls.put, None)  # nobody can submit any more: the threads end

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Carry out the call in one of the threads."""
        with self._lock:
            if self._closed:
                raise RuntimeError("The threads were shut down; nothing can be submitted any more.")
            future: Future[Any] = Future()
            self._calls.put((future, partial(call, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._started < self._most:
                self._started += 1
                threading.Thread(target=_work, args=(self._calls, self._idle), daemon=True, name="endpoint").start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Let the threads end; no one waits for them. Calls that have not begun are cancelled where asked."""
        with self._lock:
            self._closed = True
            waiting = []
            with contextlib.suppress(queue.Empty):
                while cancel_futures:
                    waiting.append(self._calls.get_nowait())
            self._calls.put(None)
        for item in filter(None, waiting):
            item[0].cancel()


def _work(calls: _Calls, idle: threading.Semaphore) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del item, future, call  # an idle thread keeps nothing alive
        idle.release()
    calls.put(None)  # for the next one
