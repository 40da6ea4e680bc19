"""What an entry of an archive is: a capture, or something to skip for a reason, by its name and perhaps its content."""

import os
from collections import Counter

from contract.imaging import SUFFIXES
from contract.names import display_name
from contract.signatures import Content, content_of, ending_is_silent, ending_of
from contract.states import UNSCREENED, NoCaptures, SkipReason

JUNK_NAMES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b".ds_store", b"$recycle.bin", b".directory"})
"""In lower case. Files and folders whose names begin with a dot are junk as well (`._*`: macOS resource forks)."""
JUNK_FOLDERS = frozenset(
    {
        b"__macosx", b"network trash folder", b"temporary items", b"thevolumesettingsfolder",  # macOS
        b"$recycle.bin", b"recycler", b"recycled", b"system volume information", b"dfsrprivate",  # Windows
        *(b"found.%03d" % number for number in range(10)),  # Windows: what chkdsk found
        b"lost+found",  # Linux: what fsck found
        b"@eadir", b"@tmp", b"@sharebin", b"@sharesnap", b"#recycle", b"#snapshot", b"#trash",  # Synology
        b"@recycle", b"@recently-snapshot", b"@__thumb",  # QNAP
        b"~snapshot",  # NetApp
    }
)  # fmt: skip
"""In lower case. Those of other systems begin with a dot: `.Trash-1000`, `.snapshot`, `.zfs`, `.AppleDouble`, ..."""
_JUNK = JUNK_NAMES | JUNK_FOLDERS
_SUFFIXES = frozenset(suffix.encode() for suffix in SUFFIXES)

Passed = Counter[tuple[SkipReason, str]]
"""How often which kind of entry was skipped: its reason, and what to call it."""


def is_junk(name: bytes) -> bool:
    """Whether an entry of this name lies in an archive by accident, and nothing in it is a patient's."""
    return name.startswith(b".") or name.lower() in _JUNK


def why_skipped(entry: os.DirEntry[bytes], *, follow_links: bool, openable: bool) -> SkipReason | None:
    """Why the entry, which is no folder to enter, is no capture; None if it is one.

    A file whose ending says nothing is opened for its first bytes, unless its path is too long to be `openable`. Raises
    OSError.
    """
    if entry.is_symlink() and not follow_links:
        return SkipReason.LINK
    if is_junk(entry.name):
        return SkipReason.JUNK
    if not entry.is_file(follow_symlinks=follow_links):
        return SkipReason.NOT_A_FILE
    if ending_of(entry.name) in _SUFFIXES:
        return None if openable else SkipReason.PATH_TOO_LONG
    if not ending_is_silent(entry.name) or entry.is_symlink():
        return SkipReason.NOT_A_CAPTURE
    return _why_skipped_by_content(entry.path) if openable else SkipReason.PATH_TOO_LONG


def _why_skipped_by_content(path: bytes) -> SkipReason | None:
    try:
        content = content_of(path)
    except PermissionError:
        return SkipReason.NOT_READABLE
    return {Content.CAPTURE: None, Content.DICOM: SkipReason.DICOM, Content.OTHER: SkipReason.NOT_A_CAPTURE}[content]


def called(reason: SkipReason, path: bytes) -> str:
    """What to call a skipped entry in a sentence that counts them."""
    if reason is SkipReason.NOT_A_CAPTURE:
        return kind_of_file(display_name(path))
    return {
        SkipReason.DICOM: "DICOM file", SkipReason.LINK: "link", SkipReason.NOT_A_FILE: "socket, pipe or device",
        SkipReason.NOT_READABLE: "file that this user may not read", SkipReason.PATH_TOO_LONG: "path that is too long",
    }.get(reason, "junk")  # fmt: skip


def kind_of_file(shown: str) -> str:
    """A skipped file by the ending of its displayed path, to be counted: `.czi file`."""
    ending = os.path.splitext(shown.lower())[1]  # noqa: PTH122
    return f"{ending} file" if ending.strip(".") else "file without an ending"


def counted(kinds: Counter[str]) -> str:
    """Kinds of things with their numbers, the most frequent first: `3 .czi files, 1 link`."""
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.most_common())


def why_none(passed: Passed) -> tuple[NoCaptures, str]:
    """Why a patient has no captures, by what was skipped in its folder: the code, and the end of a sentence."""
    kinds: Counter[str] = Counter()
    for (reason, kind), count in passed.items():
        if reason is not SkipReason.JUNK:
            kinds[kind] += count
    reasons = {reason for reason, _ in passed} - {SkipReason.JUNK}
    if not reasons:
        return NoCaptures.EMPTY, "its folder holds nothing but junk" if passed else "its folder is empty"
    if reasons == {SkipReason.LINK}:
        return NoCaptures.ONLY_LINKS, f"its folder holds only links, which are not followed: {counted(kinds)}"
    if not UNSCREENED.isdisjoint(reasons):
        return NoCaptures.NOT_READABLE, f"its folder holds no capture that can be read: {counted(kinds)}"
    return NoCaptures.NO_CAPTURE_FILES, f"its folder holds no captures: {counted(kinds)}"
