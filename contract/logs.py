"""Logging with structlog, set up in the same way for every process. No patient id or path is logged at info level.

What is logged may come from outside: text in Redis, names of bundles, other processes. It is made printable, so that
one event is one line. Only a traceback has more, and its lines begin with blanks.
"""

import json
import logging
import sys
import traceback
from typing import Any

import structlog

from contract.printable import printable_json, printable_lines, printable_value

_DATABASE = ("sqlalchemy", "psycopg", "sqlite3")
"""Modules whose errors repeat values of rows, such as patients' names: PostgreSQL's DETAIL is `Key (...)=(...)`."""
_INDENT = "    "


def configure_logging(level: str, style: str) -> None:
    """Send log lines to stderr; stdout is for data. `style` is "console", with local times, or "json", with UTC."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if style == "json"
        else structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S %Z", utc=False),  # as all times for people
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer(lambda event, **how: printable_json(json.dumps(event, **how)))]
        if style == "json"
        else [
            _made_printable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(lambda exc_info: traceback_of(exc_info[1])),
                *renderers,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("celery.redirected", "kombu", "amqp", "alembic", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def traceback_of(error: BaseException | None) -> str:
    """The tracebacks of an error and of those that led to it, the first of them first, as Python shows them.

    Neither variables nor what the database says are in it, because both have names of patients.
    """
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{_named(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to\n\n".join(reversed(parts))


def _named(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _DATABASE:
        return "".join(traceback.format_exception_only(error)).rstrip("\n")
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return f"{kind.__module__}.{kind.__qualname__}{f' {code}' if code else ''}"


def _made_printable(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Every value of the event on one line, but the traceback: what is no text, number or list becomes its `repr`."""
    lines = event.pop("exception", None)
    shown: structlog.typing.EventDict = {key: printable_value(_simple(value)) for key, value in event.items()}
    if lines is not None:
        shown["exception"] = _INDENT + printable_lines(str(lines), indent=_INDENT)
    return shown


def _simple(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, list, tuple, dict)) else repr(value)
