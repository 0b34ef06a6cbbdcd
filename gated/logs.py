"""How every process of the house logs: structlog to standard error, where the service manager takes it over.

Events in lower case, never personal data or secrets. Imports nothing of the project."""

import logging
import sys

import structlog


def configure(level: str = "info", form: str = "json") -> None:
    """`level`: debug, info, warning, error. `form`: `json` for programs, `console` for people."""
    stamp = structlog.processors.TimeStamper("iso", utc=True)
    last = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, structlog.processors.format_exc_info, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
