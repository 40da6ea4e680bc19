"""The folder for what can be made again: compiled engines, decoded captures, flight records.

A cache only saves time, so a user without a home, or with one that nobody may write to, must not end the work. Then the
system's temporary folder holds a cache of this user, and without that there is none.
"""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

APPLICATION = "slide-screen"


@dataclass(frozen=True)
class Cache:
    """`folder` belongs to this user and can be written to; None where there is no such folder.

    `problem` says, in a sentence without its full stop, why it is not the folder that was meant; None where it is.
    """

    folder: Path | None
    problem: str | None


def find_cache(chosen: Path | None) -> Cache:
    """The folder `chosen`, or else the user's cache folder; where it cannot be used, a temporary folder, or none.

    Makes the folder, for this user only. Raises nothing: a cache is never a reason to stop.
    """
    try:
        folder = chosen or user_cache_path(APPLICATION, appauthor=False)
        _make_usable(folder)
        return Cache(folder, None)
    except RuntimeError:  # platformdirs: no HOME, and no entry of this user in the system's list
        problem = "this user has no home folder"
    except OSError as error:
        problem = f"the cache folder {folder} cannot be written to ({error.strerror or error})"
    try:
        fallback = Path(tempfile.gettempdir()) / f"{APPLICATION}-{os.geteuid()}"
        _make_usable(fallback)
        _refuse_foreign(fallback)
    except OSError:
        return Cache(None, f"{problem}, and neither can the temporary folder: nothing is kept")
    return Cache(fallback, f"{problem}; {fallback} is used instead")


def give_libraries_a_home() -> None:
    """For a user without a home folder name one that does not exist, as systems do for their service users. Call it
    before importing libraries that look for a home at once: OpenVINO's telemetry fails where there is none.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


def _make_usable(folder: Path) -> None:
    """Make the folder and write to it, because no permission tells what the file system will say. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _refuse_foreign(folder: Path) -> None:
    """Anybody may make a folder of this name in the temporary folder. Raises PermissionError where another user did."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user, or others can write to it")
