"""Finishes predictions on the CPU while a GPU works on the next images."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

#: So many calls may be unfinished: one that runs and one that waits. More would only hold more memory.
MAX_UNFINISHED = 2


class BackgroundThread:
    """Runs calls in one thread, in the order in which they were submitted.

    The end of a ``with`` block waits for all of them. If the block fails, calls that have not begun are dropped.

    Args:
        device: where the model runs. If that is the CPU, there is no thread and :meth:`submit` runs each call itself:
            two threads that both compute with torch wait for one another's cores, which took three times the CPU time
            with two cores.
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
        """Has ``call(*arguments)`` run; waits first while :data:`MAX_UNFINISHED` calls are unfinished.

        Raises:
            Exception: whatever an earlier call raised.
        """
        if self._inline:
            call(*arguments)
            return
        while len(self._unfinished) >= MAX_UNFINISHED:
            self._unfinished.popleft().result()
        self._unfinished.append(self._thread.submit(call, *arguments))
