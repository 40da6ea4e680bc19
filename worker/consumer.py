"""Celery's consumer, which continues after text in its queue that is not a message."""

from typing import Any

from celery.worker.consumer import Consumer


class EnduringConsumer(Consumer):
    """Drops text that cannot be read, and starts again. Any client of Redis can write to the queue.

    kombu takes a message from the queue and then reads it. Without this class, an error while reading would end the
    worker: the text is not JSON (ValueError), is nested without end (RecursionError), or is JSON but not a message
    (KeyError, TypeError, AttributeError).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channel_errors: tuple[type[BaseException], ...] = self.channel_errors  # type: ignore[has-type]
        self.channel_errors = (*channel_errors, ValueError, RecursionError, KeyError, TypeError, AttributeError)
