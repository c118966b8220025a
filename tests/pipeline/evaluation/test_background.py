"""The thread that encodes predictions: in order, bounded, and no failure is lost."""

import threading
import time

import pytest
import torch

from pipeline.evaluation.background import MAX_UNFINISHED, BackgroundThread

GPU = torch.device("cuda")  # named alone: nothing is computed


def test_beside_a_model_on_the_cpu_calls_run_at_once() -> None:
    found: list[int] = []
    with BackgroundThread(torch.device("cpu")) as background:
        for number in range(5):
            background.submit(lambda: found.append(threading.get_ident()))
            assert len(found) == number + 1
        with pytest.raises(ZeroDivisionError):
            background.submit(lambda: print(1 / 0))
    assert set(found) == {threading.get_ident()}


def test_calls_run_in_order_in_one_thread_and_are_all_done_at_the_end() -> None:
    found: list[tuple[int, int]] = []

    def call(number: int) -> None:
        time.sleep(0.002 * (number % 3))
        found.append((number, threading.get_ident()))

    with BackgroundThread(GPU) as background:
        for number in range(20):
            background.submit(call, number)
    assert [number for number, _ in found] == list(range(20))
    (thread,) = {thread for _, thread in found}
    assert thread != threading.get_ident()


def test_the_caller_goes_on_while_a_call_runs_but_not_too_far() -> None:
    release, submitted = threading.Event(), threading.Semaphore(0)

    def caller() -> None:
        with BackgroundThread(GPU) as background:
            for _ in range(MAX_UNFINISHED + 2):
                background.submit(release.wait, 10)  # type: ignore[arg-type]
                submitted.release()

    thread = threading.Thread(target=caller)
    thread.start()
    assert all(submitted.acquire(timeout=10) for _ in range(MAX_UNFINISHED))
    assert not submitted.acquire(timeout=0.1)
    release.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("last", [False, True])
def test_a_failure_reaches_the_caller(last: bool) -> None:
    def call(number: int) -> None:
        if number == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundThread(GPU) as background:
        for number in range(4 if last else 50):
            background.submit(call, number)


def test_a_failure_of_the_caller_is_not_hidden_and_waits_for_the_call_under_way() -> None:
    begun, done = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        time.sleep(0.05)
        done.set()
        raise OSError("hidden")

    with pytest.raises(KeyError, match="of the caller"), BackgroundThread(GPU) as background:
        background.submit(call)
        begun.wait(10)
        raise KeyError("of the caller")
    assert done.is_set()
