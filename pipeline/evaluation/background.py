"""Runs the CPU work of an evaluation in a thread, while a GPU predicts the next images."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

#: How many calls may be unfinished: one that runs and one that waits. More would only use more memory.
MAX_UNFINISHED = 2


class BackgroundThread:
    """Runs calls in one thread, in the order in which they were submitted.

    The end of a ``with`` block waits for all calls. If the block fails, calls that have not begun are dropped.

    Args:
        device: the model's device. On the CPU there is no thread, and :meth:`submit` runs each call itself: two threads
            that both compute with torch compete for cores, which took three times the CPU time on two cores.
    """

    def __init__(self, device: torch.device) -> None:
        self._inline = device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._unfinished: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while error is None and self._unfinished:
                self._unfinished.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def submit(self, call: Callable[..., None], *arguments: Any) -> None:
        """Runs ``call(*arguments)`` in the thread; waits first while :data:`MAX_UNFINISHED` calls are unfinished.

        Raises:
            Exception: the error of an earlier call.
        """
        if self._inline:
            call(*arguments)
            return
        while len(self._unfinished) >= MAX_UNFINISHED:
            self._unfinished.popleft().result()
        self._unfinished.append(self._thread.submit(call, *arguments))
