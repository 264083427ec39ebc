"""A signal whose handler takes longer than a wait does not make the wait endless."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from distributed import Client

from engine import plain_files
from engine.execution.task_pool import TICK_S, TaskPool
from engine.plain_files import LOOK_S, read_plain, reads_end_on


@contextmanager
def slow_signal(handler_s: float, after_s: float) -> Iterator[Callable[[], bool]]:
    """Interrupt the main thread in the block, as SIGTERM does; yield whether it was handled."""
    handled = threading.Event()
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def handle(number: int, frame: FrameType | None) -> None:
        time.sleep(handler_s)
        handled.set()

    previous = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(after_s, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    try:
        yield handled.is_set
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.timeout(60)
def test_a_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Event()
    monkeypatch.setattr(plain_files, "_read", lambda path: left.wait(600))
    with slow_signal(3 * LOOK_S, 2.5 * LOOK_S) as handled:
        with reads_end_on(handled), pytest.raises(KeyboardInterrupt):
            read_plain(Path("key"))
        assert handled()
    left.set()


@pytest.mark.timeout(60)
def test_a_wait_for_tasks_ends(client: Client) -> None:
    pool = TaskPool(client, time.sleep, lambda seconds: (seconds,), label="waits")
    with slow_signal(2 * TICK_S, TICK_S / 2) as handled:
        assert pool._collect() == []
        assert handled()
