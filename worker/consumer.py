"""Celery's consumer without its talk between workers, which continues after text in its queue that is not a message."""

from typing import Any

from celery.worker.consumer import Consumer

NO_TALK = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
"""Celery's options that leave out what workers tell one another. contract/messages.py switches remote control off."""


class EnduringConsumer(Consumer):
    """Drops text that cannot be read, and starts again. Any client of Redis can write to the queue.

    kombu takes a message from the queue and then reads it. Without this class, an error while reading would end the
    worker: the text is not JSON (ValueError), is nested without end (RecursionError), or is JSON but not a message
    (KeyError, TypeError, AttributeError).

    It never talks to other workers, whatever the command line says. Nobody here listens, and a Redis user without
    rights on channels would be refused: the worker would connect again without end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, **NO_TALK)
        channel_errors: tuple[type[BaseException], ...] = self.channel_errors  # type: ignore[has-type]
        self.channel_errors = (*channel_errors, ValueError, RecursionError, KeyError, TypeError, AttributeError)
