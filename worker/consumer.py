"""Celery's consumer, made to go on after text in its queue that is no message."""

from typing import Any

from celery.worker.consumer import Consumer


class EnduringConsumer(Consumer):
    """Anybody may write to a queue in Redis. What cannot be read is gone, and the consumer starts again.

    kombu takes a message and then reads it, and what reading raises would end the worker: it is not JSON (ValueError),
    or without end (RecursionError), or JSON that is no message (KeyError, TypeError, AttributeError).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known: tuple[type[BaseException], ...] = self.channel_errors  # type: ignore[has-type]
        self.channel_errors = (*known, ValueError, RecursionError, KeyError, TypeError, AttributeError)
