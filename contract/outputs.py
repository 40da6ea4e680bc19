"""Options and arguments that name what a command writes at its end: whether it can be written is known at its start."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from contract.files import check_folder, check_writable

YOURS_TO_MEND = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
        errno.ENAMETOOLONG, errno.ELOOP,
    }
)  # fmt: skip
"""Errors about a file that the user named and can correct."""


class Output(click.Path):
    """A path that `check` raises OSError for if it cannot be written."""

    def __init__(self, check: Callable[[Path], None], **options: Any) -> None:
        super().__init__(path_type=Path, readable=False, **options)
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            self._check(path)
        except OSError as error:
            if error.errno in YOURS_TO_MEND:
                self.fail(f"{path} cannot be written ({error.filename}: {error.strerror}); name another", param, ctx)
            raise
        return path


class OutputFile(Output):
    """A file that is written whole at the end. A usage error if it is a folder, or its folder cannot be written to."""

    def __init__(self) -> None:
        super().__init__(check_writable, dir_okay=False)


class AppendedFile(Output):
    """A file that the command appends to, or makes."""

    def __init__(self) -> None:
        super().__init__(_append, dir_okay=False)


class NewFolder(Output):
    """A folder that appears complete at the end. A usage error if the folder around it cannot be written to."""

    def __init__(self) -> None:
        super().__init__(check_writable)


class OutputFolder(Output):
    """A folder that the command makes, if it is missing, and fills. A usage error if it cannot be written to."""

    def __init__(self) -> None:
        super().__init__(check_folder)


def _append(file: Path) -> None:
    if file.exists():
        with file.open("ab"):
            pass
    else:
        check_writable(file)
