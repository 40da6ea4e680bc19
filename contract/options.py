"""Options of several commands, in all packages."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from contract.archive import MAX_PATIENT_DEPTH

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PATIENTS = "Take the folders this many levels below ARCHIVE for the patients: 2 for ARCHIVE/date/patient."


def patient_depth_option(help_: str = _PATIENTS) -> Callable[[_Function], _Function]:
    """Adds `--patient-depth`, passed on as `patient_depth`: see `contract.archive.walk_archive`."""
    return click.option(
        "--patient-depth", type=click.IntRange(1, MAX_PATIENT_DEPTH), default=1, show_default=True, metavar="LEVELS",
        help=help_,
    )  # fmt: skip
