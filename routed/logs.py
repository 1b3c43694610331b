"""How log lines look: JSON on standard error, one event per state change."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, debug: bool = False, readable: bool = False) -> None:
    """Set up structlog for the process; `readable` is for people at a terminal."""
    logging.getLogger("ovsdbapp").setLevel(logging.CRITICAL)  # it logs what it raises
    logging.getLogger("ovs").setLevel(logging.CRITICAL)
    renderer = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def keep_silent() -> None:
    """Log nothing, in a command that prints what it finds."""
    logging.getLogger("ovsdbapp").setLevel(logging.CRITICAL)
    logging.getLogger("ovs").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
