"""Pseudonyms of patients: a keyed hash of the folder's name, and the way back for people who have the key.

HMAC-SHA256 (RFC 2104), cut to 100 bits and written in base32: among a million patients, two have the same pseudonym
with a probability of 4e-19. Without the key nobody can find a name by trying names.
"""

import base64
import hashlib
import hmac
import os
import stat
from pathlib import Path

from contract.errors import ArchiveUnavailable, PseudonymKeyMissing, SettingsError

PREFIX = b"px-"
LETTERS = 20
FEWEST_BYTES = 32
_SETTING = "SCREEN_PSEUDONYM_KEY_FILE"


class PseudonymKey:
    """The secret that makes the pseudonyms."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def fingerprint(self) -> str:
        """16 letters that identify the key but do not reveal it: runs with different keys are never mixed."""
        return self._digest(b"slide-screen: fingerprint of a key of pseudonyms").hex()[:16]

    def pseudonym(self, folder: bytes) -> bytes:
        """The pseudonym of a patient whose folder has this name."""
        return PREFIX + base64.b32encode(self._digest(b"patient:" + folder)).lower()[:LETTERS]

    def path(self, path: bytes, patient_depth: int = 1) -> bytes:
        """A path below the archive's root, with the patient's folder at its beginning, `patient_depth` names, replaced.

        A shorter path is replaced as a whole: somebody may have named it after a patient.
        """
        names = path.split(b"/")
        folder = b"/".join(names[:patient_depth])
        return b"/".join([self.pseudonym(folder), *names[patient_depth:]])

    def _digest(self, text: bytes) -> bytes:
        return hmac.digest(self._secret, text, hashlib.sha256)


def read_key(file: Path | None) -> PseudonymKey:
    """The key in this file. Raises SettingsError if there is none, it is too short, or others may read it."""
    if file is None:
        raise SettingsError(
            f"{_SETTING} names no file; make one with `(umask 077; head -c 32 /dev/urandom | base64 > FILE)`, "
            "and keep it"
        )
    try:
        mode = file.stat().st_mode
        secret = file.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{_SETTING}: {file} cannot be read ({error.strerror})") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"{_SETTING}: others may read {file}; `chmod 600` it")
    if len(secret) < FEWEST_BYTES:
        raise SettingsError(f"{_SETTING}: {file} holds fewer than {FEWEST_BYTES} bytes; make one with /dev/urandom")
    return PseudonymKey(secret)


class RealPaths:
    """Converts the pseudonymous paths of one archive, with patients' folders at this depth, back to those on disk.

    The names of the folders are listed and hashed once, and again if a pseudonym is not among them: then a folder is
    new.
    """

    def __init__(self, root: bytes, key: PseudonymKey, patient_depth: int = 1) -> None:
        self._root = root
        self._key = key
        self._patient_depth = patient_depth
        self._folders: dict[bytes, bytes] = {}

    def __call__(self, path: bytes) -> bytes:
        """The path on disk; if no folder has this pseudonym, the path itself, where there is no file.

        Raises ArchiveUnavailable if the archive cannot be listed.
        """
        pseudonym, slash, path_in_folder = path.partition(b"/")
        if pseudonym not in self._folders:
            self._folders = self._listed()
        return self._folders.get(pseudonym, pseudonym) + slash + path_in_folder

    def _listed(self) -> dict[bytes, bytes]:
        try:
            with os.scandir(self._root) as entries:
                folders = [entry.name for entry in entries]
        except OSError as error:
            raise ArchiveUnavailable(
                f"the archive's root cannot be listed ({error.strerror}); mount it again, work goes on by itself"
            ) from None
        for _ in range(self._patient_depth - 1):
            folders = [below for folder in folders for below in self._below(folder)]
        return {self._key.pseudonym(folder): folder for folder in folders}

    def _below(self, folder: bytes) -> list[bytes]:
        """What lies in a folder above the patients; nothing in a file, a link, or a folder that cannot be listed."""
        try:
            path = os.path.join(self._root, folder)  # noqa: PTH118 - bytes
            if os.path.islink(path):  # noqa: PTH114 - bytes
                return []
            with os.scandir(path) as entries:
                return [os.path.join(folder, entry.name) for entry in entries]  # noqa: PTH118 - bytes
        except OSError:
            return []


def real_paths(root: bytes, fingerprint: str, key_file: Path | None, patient_depth: int = 1) -> RealPaths:
    """For an archive submitted with the key of this fingerprint, and with its patients' folders at this depth.

    Raises PseudonymKeyMissing without that key.
    """
    try:
        key = read_key(key_file)
    except SettingsError as error:
        raise PseudonymKeyMissing(f"this run's patients have pseudonyms: {error}") from None
    if key.fingerprint != fingerprint:
        raise PseudonymKeyMissing(
            f"this run's pseudonyms were made with another key ({fingerprint}); {_SETTING} must name that one"
        )
    return RealPaths(root, key, patient_depth)
