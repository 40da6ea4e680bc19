"""The errors that slide-screen raises on purpose; a package may derive its own kinds from these.

    ScreeningError
    ├── UsageError                the user can mend it: exit 2
    │   ├── SettingsError         a setting is unknown or has a wrong value
    │   ├── ArchiveError          the archive is not one (no such folder, no patients, ...)
    │   ├── BundleError           the bundle is damaged, incomplete or of another version
    │   ├── DatabaseVersionError  the database's schema is not the one this release works with
    │   ├── DatabaseForbids       the database's role may not do this
    │   ├── NoSuchRun             no run of that number
    │   ├── NoSuchCase            no case of that number
    │   ├── CaseHeld              another reviewer has the case in hand; her hold ends by itself
    │   └── DataError             training data that cannot be trained on
    ├── Unavailable               a service is out of reach; trying again later helps: exit 3
    │   ├── BrokerUnavailable     Redis
    │   ├── DatabaseUnavailable   the SQL database
    │   ├── PseudonymKeyMissing   the key of the patients' pseudonyms is not here, or is another
    │   ├── ArchiveUnavailable    the archive's storage is away (unmounted, I/O error): never "corrupt"
    │   │   └── StorageFault      one file's storage fails while the archive is there: a bad sector, perhaps
    │   └── StorageFull           no room where something must be written
    ├── CaptureRejected           one capture cannot be screened: a code from the closed list and a sentence
    ├── LeaseLost                 another worker owns the chunk now: what was computed must not be written
    ├── OutOfMemory               a worker's memory ceiling was reached: its process must end
    ├── EngineError               the inference engine cannot open or run the bundle
    └── ExportError               a trained network and its exported graph disagree

The message carries the facts and ends with the next step. `retryable` says whether the same call can succeed later
without anybody changing anything.
"""

from enum import IntEnum

from contract.states import RejectCode


class ExitCode(IntEnum):
    """Exit status of every `screen` command."""

    OK = 0
    """All captures were screened."""
    SOME_ENDED_BADLY = 1
    """The command did its work, but some captures were rejected or quarantined, or a check failed."""
    USAGE = 2
    """The user can mend it: a wrong argument, setting, folder or bundle."""
    UNAVAILABLE = 3
    """Redis, the database, the archive's storage or disk space is out of reach; try again later."""
    BROKEN = 70
    """This program failed: a fault in it, or something that it does not know."""
    INTERRUPTED = 130
    """Ctrl-C."""


class ScreeningError(Exception):
    """Root of the tree."""

    retryable = False
    exit_code = ExitCode.SOME_ENDED_BADLY


class UsageError(ScreeningError):
    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    pass


class ArchiveError(UsageError):
    pass


class BundleError(UsageError):
    pass


class DatabaseVersionError(UsageError):
    pass


class DatabaseForbids(UsageError):
    pass


class NoSuchRun(UsageError):
    def __init__(self, run_id: int) -> None:
        super().__init__(f"there is no run {run_id}; `screen status` lists the runs")


class NoSuchCase(UsageError):
    pass


class CaseHeld(UsageError):
    retryable = True


class DataError(UsageError):
    pass


class Unavailable(ScreeningError):
    retryable = True
    exit_code = ExitCode.UNAVAILABLE


class BrokerUnavailable(Unavailable):
    pass


class DatabaseUnavailable(Unavailable):
    pass


class ArchiveUnavailable(Unavailable):
    pass


class StorageFault(ArchiveUnavailable):
    pass


class StorageFull(Unavailable):
    pass


class PseudonymKeyMissing(Unavailable):
    pass


class CaptureRejected(ScreeningError):
    """One capture that cannot be screened.

    `code` is from the closed list `contract.states.RejectCode`; `str(error)` is the sentence beside it. The sentence
    never holds a path or a patient: it is stored, shown and logged.
    """

    def __init__(self, code: RejectCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class LeaseLost(ScreeningError):
    pass


class OutOfMemory(ScreeningError):
    pass


class EngineError(ScreeningError):
    pass


class ExportError(ScreeningError):
    pass
