"""The warning that a run is implausible; it comes before all other output."""

from db.plausibility import Implausibility
from producer.output import plain, say, stdout

_STYLE = "bold red"


def print_alarm(implausible: Implausibility | None) -> None:
    """Print it on stdout, above a table; nothing for a plausible run."""
    if implausible is not None:
        stdout.print(plain(implausible.sentence), style=_STYLE, soft_wrap=True)


def say_alarm(implausible: Implausibility | None) -> None:
    """Print it on stderr, where stdout is for data or a user follows the run; nothing for a plausible run."""
    if implausible is not None:
        say(implausible.sentence, _STYLE)
