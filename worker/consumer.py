"""Celery's consumer without its talk between workers."""

from typing import Any

from celery.worker.consumer import Consumer

NO_TALK = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
"""Celery's options that leave out what workers tell one another. contract/messages.py switches remote control off."""


class QuietConsumer(Consumer):
    """It never talks to other workers, whatever the command line says. Nobody here listens, and a Redis user without
    rights on channels would be refused: the worker would connect again without end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, **NO_TALK)
