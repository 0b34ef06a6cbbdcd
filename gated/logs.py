"""How every process of the house logs: structlog to standard error, where the service manager takes it over.

Events in lower case, never personal data or secrets. What is logged of an exception is its type and where it came from,
whoever logs it, Python itself included. Never its words: a `KeyError` quotes the key, which may be somebody's document
number. Never a frame's variables: they may be keys. Imports nothing of the project."""

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

FRAMES = 6
"""Of an exception, the innermost ones are shown."""
CHAIN_MAX = 8
"""Exceptions of one chain that are shown, the last first."""


def told(error: BaseException) -> list[str]:
    """One line for an exception, and one for each that led to it; of a group, for each that it holds."""
    return [line for _, line in zip(range(CHAIN_MAX), _lines(error, set()), strict=False)]


def _lines(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _lines(each, seen)
        else:
            yield f"{type(error).__name__} at {_where(error) or 'nowhere'}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return " > ".join(f"{'/'.join(Path(f.filename).parts[-3:])}:{f.lineno} {f.name}" for f in frames)


def configure(level: str = "info", form: str = "json") -> None:
    """`level`: debug, info, warning, error. `form`: `json` for programs, `console` for people. From here on also what
    Python says of exceptions that nobody caught, and what libraries log, goes this way."""
    last: Any = structlog.processors.JSONRenderer()
    if form != "json":
        last = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    stamp = structlog.processors.TimeStamper("iso", utc=True)
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, _place_alone, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.excepthook = _fallen
    sys.unraisablehook = lambda it: _log("an exception that could not be raised", it.exc_value)
    threading.excepthook = _thread_fallen
    logging.basicConfig(handlers=[_Libraries(logging.WARNING)], force=True)


def _place_alone(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """In place of `exc_info`, what may be told of it."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info is True or (info and error is None):
        error = sys.exc_info()[1]
    if error is not None:
        event["exception"] = "; ".join(told(error))
    event.pop("stack_info", None)
    return event


def _log(event: str, error: BaseException | None, **what: Any) -> None:
    structlog.get_logger().critical(event, exc_info=error, **what)


def _fallen(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log("the process ends by a fault of its own", error)


def _thread_fallen(it: threading.ExceptHookArgs) -> None:
    if it.exc_type is not SystemExit:
        _log("a thread ended by a fault of its own", it.exc_value, thread=it.thread.name if it.thread else "")


class _Libraries(logging.Handler):
    """What libraries log: the first line, since asyncio's others hold the failed task with its exception's words."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = (record.getMessage().splitlines() or [""])[0]
            level = "warning" if record.levelno < logging.ERROR else "error"
            getattr(structlog.get_logger(), level)(text, library=record.name, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - as every handler does; what it prints has no words of the record's
            structlog.get_logger().error("a library's message cannot be shown", library=record.name)
