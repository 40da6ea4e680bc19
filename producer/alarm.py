"""The warning that a run is implausible; it comes before all other output."""

from collections.abc import Sequence

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


def print_warnings(warnings: Sequence[str], training: str | None) -> None:
    """Print on stdout what the bundle says against itself, and how many of the captures it was trained on."""
    for sentence in (*warnings, *([training] if training else [])):
        stdout.print(plain(sentence), style="bold yellow")


def say_warnings(warnings: Sequence[str], training: str | None) -> None:
    """The same on stderr, where stdout is for data."""
    for sentence in (*warnings, *([training] if training else [])):
        say(sentence, "bold yellow")
