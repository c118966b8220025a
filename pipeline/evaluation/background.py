"""One thread that finishes predictions on the CPU while the device works on the next images."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

#: So many calls may be unfinished: one that runs and one that waits. More would only hold more memory.
MAX_UNFINISHED = 2


class BackgroundThread:
    """Runs calls in one thread, in the order in which they were submitted.

    The end of a ``with`` block waits for all of them. If the block fails, calls that have not begun are dropped.
    """

    def __init__(self) -> None:
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
        while len(self._unfinished) >= MAX_UNFINISHED:
            self._unfinished.popleft().result()
        self._unfinished.append(self._thread.submit(call, *arguments))
