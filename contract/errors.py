"""The errors that slide-screen raises on purpose; a package may derive its own kinds from these.

    ScreeningError
    ├── UsageError                the user can correct it: exit 2
    │   ├── SettingsError         a setting is unknown or has a wrong value
    │   ├── ArchiveError          the archive is not one (no such folder, no patients, ...)
    │   ├── BundleError           the bundle is damaged, incomplete or of another version
    │   ├── DatabaseVersionError  the database's schema is not the one this release works with
    │   ├── DatabaseForbids       the database's role may not do this
    │   ├── DatabaseUnsuitable    the database cannot hold our rows: its encoding
    │   ├── BrokerForbids         Redis' user lacks a right, or this Redis cannot carry chunk ids
    │   ├── NoSuchRun             no run of that number
    │   ├── NoSuchCase            no case of that number
    │   ├── CaseHeld              another reviewer has the case in hand; their hold ends by itself
    │   └── DataError             a table that people made, or training data, that cannot be used
    ├── Unavailable               a service is out of reach; trying again later helps: exit 3
    │   ├── BrokerUnavailable     Redis
    │   ├── DatabaseUnavailable   the SQL database
    │   │   └── DatabaseReadOnly  it takes no writes now: a standby, or set to read-only for a while
    │   ├── PseudonymKeyMissing   the key of the patients' pseudonyms is not here, or is a different one
    │   ├── ArchiveUnavailable    the archive's storage is out of reach (unmounted, I/O error): never "corrupt"
    │   │   └── StorageFault      one file cannot be read while the archive can: a bad sector, perhaps
    │   └── StorageFull           no room where something must be written
    ├── CaptureRejected           one capture cannot be screened: a code from the closed list and a sentence
    ├── LeaseLost                 another worker owns the chunk now: this one must not write its results
    ├── OutOfMemory               a worker's memory ceiling was reached: its process must end
    ├── EngineError               the inference engine cannot open or run the bundle
    └── ExportError               a trained network and its exported graph disagree

The message carries the facts and ends with the next step. `retryable` says whether the same call can succeed later
if nobody changes anything.
"""

from enum import IntEnum

from contract.states import RejectCode


class ExitCode(IntEnum):
    """Exit status of every `screen` command. `make docs` prints `meaning` in docs/operations.md."""

    _value_: int
    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done; all captures were screened, and all patients have some"
    SOME_ENDED_BADLY = (
        1,
        "done, but captures were rejected or quarantined, [patients have no captures](#patients-without-captures) or "
        "some of theirs were left out, most captures of most patients do not count "
        "([below](#a-run-that-cannot-be-believed)), or a check failed",
    )
    USAGE = (
        2,
        "a mistake that you can correct: an argument, a setting, a folder, a bundle, the database's version or "
        "encoding, a right that is missing in Redis or in the database",
    )
    UNAVAILABLE = 3, "Redis, database, archive or disk space is out of reach; try again later"
    BROKEN = 70, "this program failed; `screen --debug ...` shows where. What was written before stays"
    INTERRUPTED = 130, "Ctrl-C"


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


class DatabaseUnsuitable(UsageError):
    pass


class BrokerForbids(UsageError):
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


class DatabaseReadOnly(DatabaseUnavailable):
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
