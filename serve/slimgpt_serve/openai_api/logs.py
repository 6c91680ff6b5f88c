"""What the server's libraries write, and where: standard output belongs to the result."""

from __future__ import annotations

import asyncio
import logging
from typing import Any


class _Cancelled(logging.Filter):
    """Leaves out what was cancelled on purpose, which uvicorn logs with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return not (kind and issubclass(kind, asyncio.CancelledError))


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s',
            "use_colors": False,
        },
        "plain": {"format": "%(asctime)s %(levelname)s %(message)s"},
    },
    "filters": {"cancelled": {"()": f"{__name__}._Cancelled"}},
    "handlers": {
        "access": {"class": "logging.StreamHandler", "formatter": "access"},
        "plain": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "filters": ["cancelled"],
        },
    },
    "loggers": {
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"handlers": ["plain"], "level": "WARNING", "propagate": False},
        "slimgpt_serve": {"handlers": ["plain"], "level": "WARNING", "propagate": False},
    },
}
"""A handler's stream is standard error unless it is told otherwise."""
