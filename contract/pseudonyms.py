"""Pseudonyms of patients: a keyed hash of the folder's name, and the way back for people who have the key.

HMAC-SHA256 (RFC 2104), cut to 100 bits and written in base32: among a million patients, two have the same pseudonym
with a probability of 4e-19. Without the key nobody can find a name by trying names.
"""

import base64
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from contract.errors import ArchiveUnavailable, PseudonymKeyMissing, SettingsError
from contract.names import look_alike

PREFIX = b"px-"
LETTERS = 20
SHORTEST_REPEATED = 3
"""Letters of a name, or of a part of it, from which on a file's name that contains them repeats it: `an` is in many."""
_SUFFIX = re.compile(rb"[A-Za-z0-9]{1,5}")
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

    def look_alike(self, folder: bytes) -> str:
        """The key of the names that look like this one, hashed: the database learns that two do, not which."""
        return self._digest(b"looks like:" + look_alike(folder).encode()).hex()[:32]

    def path(self, path: bytes, patient_depth: int = 1) -> bytes:
        """A path below the archive's root, with the patient's folder at its beginning, `patient_depth` names, replaced.

        A shorter path is replaced as a whole: somebody may have named it after a patient. So is every further name in
        it that repeats the folder's: `Meier_Anna/Meier_Anna_001.jpg`.
        """
        names = path.split(b"/")
        folder = b"/".join(names[:patient_depth])
        repeats = repeating(folder)
        shown = (self.hidden(folder, name) if repeats(name) else name for name in names[patient_depth:])
        return b"/".join([self.pseudonym(folder), *shown])

    def hidden(self, folder: bytes, name: bytes) -> bytes:
        """What takes the place of a name below a patient's folder that repeats the folder's; its suffix stays."""
        _, dot, suffix = name.rpartition(b".")
        shown = b".".join((b"", suffix.lower())) if dot and _SUFFIX.fullmatch(suffix) else b""
        digest = base64.b32encode(self._digest(b"file:" + folder + b"/" + name)).lower()[:LETTERS]
        return PREFIX + digest + shown

    def _digest(self, text: bytes) -> bytes:
        return hmac.digest(self._secret, text, hashlib.sha256)


@lru_cache(maxsize=64)
def repeating(folder: bytes) -> Callable[[bytes], bool]:
    """Whether a name repeats that of this patient's folder, or a part of it, such as the surname; in any case, form and
    separators. Numbers count only as the whole name: parts of it may be a date, or the first capture's number.
    """
    parts = {part for part in re.split(r"[\W_]+", look_alike(folder)) if not part.replace("o", "0").isdecimal()}
    parts |= {_squeezed(name) for name in folder.split(b"/")}
    found = sorted((re.escape(part) for part in parts if len(part) >= SHORTEST_REPEATED), key=len, reverse=True)
    if not found:
        return lambda _name: False
    pattern = re.compile("|".join(found))
    return lambda name: pattern.search(_squeezed(name)) is not None


def _squeezed(name: bytes) -> str:
    return re.sub(r"[\W_]+", "", look_alike(name))


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


_FOLDERS_KEPT = 64
"""Patients' folders whose names are kept: captures are read folder by folder."""


class RealPaths:
    """Converts the pseudonymous paths of one archive, with patients' folders at this depth, back to those on disk.

    The names of the folders are listed and hashed once, and again if a pseudonym is not among them: then a folder is
    new. So are the names in a patient's folder, where some are hidden.
    """

    def __init__(self, root: bytes, key: PseudonymKey, patient_depth: int = 1) -> None:
        self._root = root
        self._key = key
        self._patient_depth = patient_depth
        self._folders: dict[bytes, bytes] = {}
        self._names: dict[bytes, dict[bytes, bytes]] = {}

    def __call__(self, path: bytes) -> bytes:
        """The path on disk; if no folder has this pseudonym, the path itself, where there is no file.

        Raises ArchiveUnavailable if the archive cannot be listed.
        """
        pseudonym, slash, path_in_folder = path.partition(b"/")
        if pseudonym not in self._folders:
            self._folders = self._listed()
        folder = self._folders.get(pseudonym, pseudonym)
        real = folder
        for name in path_in_folder.split(b"/") if slash else ():
            real += b"/" + (self._name_in(real, folder, name) if name.startswith(PREFIX) else name)
        return real

    def _name_in(self, place: bytes, folder: bytes, hidden: bytes) -> bytes:
        """The name in this folder that `hidden` stands for; `hidden` itself if there is none."""
        names = self._names.get(place)
        if names is None or hidden not in names:
            if len(self._names) >= _FOLDERS_KEPT:
                self._names.clear()
            found = (below.rpartition(b"/")[2] for below in self._below(place))
            names = self._names[place] = {self._key.hidden(folder, name): name for name in found}
        return names.get(hidden, hidden)

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
