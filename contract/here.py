"""The files that are used in the current folder without being named: the database, and the log of `screen run`.

Whoever fills the current folder could leave a database there with results of their own, or a link to a file that the
log is then appended to.
"""

import os
import stat
from pathlib import Path

from contract.errors import SettingsError
from contract.settings import Settings

DATABASE = "SCREEN_DATABASE_URL=sqlite:////FOLDER/screening.db"
"""What to set in place of the default."""


def default_database(settings: Settings) -> Path | None:
    """The file of the default database; None where SCREEN_DATABASE_URL is set."""
    return None if "database_url" in settings.model_fields_set else Path("screening.db")


def refuse_foreign(file: Path, instead: str) -> None:
    """Raise SettingsError where this file, which nobody named, is a link, is no file, or belongs to another user."""
    try:
        status = file.lstat()
    except OSError:  # missing: it is made; out of reach: whoever opens it says so
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise SettingsError(
            f"{file} in the current folder is a link or belongs to another user, and nobody named it; if it is meant, "
            f"name it: {instead}"
        )


def refuse_inside(archive: Path, file: Path, instead: str) -> None:
    """Raise SettingsError where this file, which nobody named, would lie in the archive that is submitted."""
    if Path.cwd().is_relative_to(archive.resolve()):
        raise SettingsError(
            f"{file} would lie in the archive, where whoever brings captures could have left one; start the command in "
            f"another folder, or name a file outside: {instead}"
        )
