"""Collection of the warnings that Pillow raises while it decodes one image, also with several decoding threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_thread = threading.local()
_depth = 0
_outer: Any = None
_catcher: warnings.catch_warnings[None] | None = None


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this thread as texts, each once; warnings of other threads go their usual way.

    `warnings.catch_warnings` alone changes the state of the whole process and mixes up threads.
    """
    messages: list[str] = []
    _start()
    before, _thread.messages = getattr(_thread, "messages", None), messages
    try:
        yield messages
    finally:
        _thread.messages = before
        _stop()


def _start() -> None:
    global _depth, _outer, _catcher
    with _lock:
        _depth += 1
        if _depth == 1:
            _catcher = warnings.catch_warnings()
            _catcher.__enter__()
            _outer = warnings.showwarning
            warnings.simplefilter("always")
            warnings.showwarning = _route


def _stop() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0 and _catcher is not None:
            _catcher.__exit__(None, None, None)


def _route(message: Warning | str, *where: Any, **options: Any) -> None:
    messages = getattr(_thread, "messages", None)
    if messages is None:
        _outer(message, *where, **options)
    elif (text := str(message)) not in messages:
        messages.append(text)
