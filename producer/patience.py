"""When `screen run` stops waiting: at once for what cannot get better, after a bounded time for an outage."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from contract.errors import BrokerForbids, BrokerUnavailable, DatabaseUnavailable, Unavailable, UsageError
from contract.messages import GRACE_S
from contract.settings import Settings
from db.progress import Progress, Undone, undone
from producer.publish import check_redis
from producer.services import Child

LOOK_EVERY_S = 2.0
HOPELESS_S = 30.0
"""So long a trouble that only a person can mend must stay: a worker then has tried its chunk about three times."""
STARTING_S = 60.0
"""So long a worker may take until its first chunk, however impatient the settings are."""
STORED = "What was screened is stored: the same command continues from there"


class Outage:
    """Waits for a database that is away: a restart of the server takes seconds, and the run does not need us."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._since: float | None = None

    def met(self, error: DatabaseUnavailable) -> bool:
        """Whether this outage has just begun. Raises the error once it takes longer than we wait."""
        has_begun = self._since is None
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since > self._seconds:
            raise DatabaseUnavailable(f"{error}. It has been away for {in_words(self._seconds)}") from error
        return has_begun

    def over(self) -> None:
        """The database has answered."""
        self._since = None


@dataclass
class Patience:
    """Looks at a run that is followed, and raises if waiting longer makes no sense.

    A child that ended (ServiceEnded) will not come back. Otherwise the run goes on as long as any worker of its
    database gets on with anything. If none does for SCREEN_PATIENCE_SECONDS, it ends with the reason (Unavailable), and
    earlier if the reason is a fault that only a person can mend (UsageError).
    """

    database: Engine
    redis_url: str
    worker: Child
    children: Sequence[Child]
    settings: Settings
    clock: Callable[[], float] = time.monotonic
    _moved_at: float = field(init=False)
    _looked_at: float = field(init=False)
    _ended: int = -1
    _undone: Undone = field(default_factory=lambda: Undone(-1, -1, 0))
    _hopeless_since: float | None = None
    _begun: bool = False

    def __post_init__(self) -> None:
        self._moved_at = self._looked_at = self.clock()

    def __call__(self, now: Progress) -> None:
        """Call it with each new progress of the run. Raises ServiceEnded, UsageError, Unavailable."""
        for child in self.children:
            child.check()
        if now.ended != self._ended:
            self._ended = now.ended
            self._move()
        elif self.clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self.clock()
            left = undone(self.database)
            if left.chunks != self._undone.chunks or left.attempts > self._undone.attempts:
                self._undone = left
                self._move()
            self._begun = self._begun or left.leased > 0 or now.trouble is not None
            self._judge(now, left.leased)

    def _move(self) -> None:
        self._moved_at = self.clock()
        self._hopeless_since = None

    def _judge(self, now: Progress, leased: int) -> None:
        """A chunk that a worker gives back again and again is claimed at times, but its attempts do not grow."""
        waited = self.clock() - self._moved_at
        if now.hopeless:
            if self._hopeless_since is None:
                self._hopeless_since = self.clock()
            if self.clock() - self._hopeless_since >= min(HOPELESS_S, self.settings.patience_seconds):
                raise UsageError(f"the run cannot go on: {now.trouble}. {STORED}, once that is mended")
        bound = self.settings.patience_seconds if self._begun else max(self.settings.patience_seconds, STARTING_S)
        if leased:  # a worker has until then to end the chunk, or its parent ends the worker
            bound += self.settings.chunk_seconds + GRACE_S
        if waited > bound:
            kind = UsageError if now.hopeless else Unavailable
            raise kind(f"nothing has gone on for {in_words(waited)}: {self._reason(now)}. {STORED}")

    def _reason(self, now: Progress) -> str:
        if now.trouble is not None:
            return f"workers give their chunks back ({now.trouble})"
        try:
            check_redis(self.redis_url, must_answer=True)
        except (BrokerUnavailable, BrokerForbids) as error:
            return str(error)
        return f"no worker takes a chunk; the end of {self.worker.log_end()}"


def in_words(seconds: float) -> str:
    """A duration for people: seconds up to two minutes, then minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
