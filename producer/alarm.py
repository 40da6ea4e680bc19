"""That a run cannot be believed is said before everything else."""

from db.plausibility import Implausibility
from producer.output import plain, say, stdout

_STYLE = "bold red"


def print_alarm(found: Implausibility | None) -> None:
    """On stdout, above a table; nothing for a plausible run."""
    if found is not None:
        stdout.print(plain(found.sentence), style=_STYLE, soft_wrap=True)


def say_alarm(found: Implausibility | None) -> None:
    """On stderr, where stdout is data for machines or somebody watches; nothing for a plausible run."""
    if found is not None:
        say(found.sentence, _STYLE)
