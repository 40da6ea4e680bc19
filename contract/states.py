"""The closed lists: states of captures, chunks, cases and reviews, verdicts, codes. Stored in SQL as these strings."""

from enum import StrEnum


class CaptureState(StrEnum):
    """Every capture of a finished run is in exactly one of the last three."""

    PENDING = "pending"
    SCREENED = "screened"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


class ChunkState(StrEnum):
    """pending -> leased (until, worker, attempt) -> done; a lease that is over may be claimed again."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"


class CaseState(StrEnum):
    """A case is open until its last capture has ended, then aggregated: it has its result and its queue row."""

    OPEN = "open"
    AGGREGATED = "aggregated"


class Verdict(StrEnum):
    """What a case is proposed as, for review by a haematologist."""

    BENIGN = "benign"
    ALL = "all"
    INDETERMINATE = "indeterminate"
    INSUFFICIENT = "insufficient"


class ReviewAction(StrEnum):
    """What a reviewer does with a case; each is a row that nothing changes afterwards."""

    CONFIRM = "confirm"
    OVERRIDE = "override"
    DEFER = "defer"
    COMMENT = "comment"
    SECOND_OPINION = "second_opinion"


class ReportCause(StrEnum):
    """Why a row stands in the reporting queue; the last two correct the row before them."""

    SCREENED = "screened"
    SIGNED_OFF = "signed_off"
    OVERRIDE = "override"
    RECOMPUTED = "recomputed"


class EventKind(StrEnum):
    """What the audit tells of."""

    SUBMITTED = "submitted"
    SET_APART = "set_apart"
    HALVED = "halved"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"
    RESUMED = "resumed"
    RETRIED = "retried"
    RECOMPUTED = "recomputed"
    IDENTITY_CONFLICT = "identity_conflict"
    PURGED = "purged"


class ReviewState(StrEnum):
    """Where the review of a case stands: the view case_review says it from the rows."""

    WAITING = "waiting"
    """Nobody has signed it."""
    PARTLY_SIGNED = "partly_signed"
    """So far all agree, and more reviewers are wanted."""
    SECOND_OPINION = "second_opinion"
    """The same, and somebody has asked for a second opinion."""
    DISAGREEMENT = "disagreement"
    """Reviewers differ, and not enough of them hold the latest opinion."""
    DEFERRED = "deferred"
    """The last thing that happened is that somebody put it off."""
    CLOSED = "closed"
    """As many reviewers as are wanted agree."""


class RejectCode(StrEnum):
    """Why a capture cannot be screened. The docstring of each is what docs/data.md prints."""

    EMPTY_FILE = "empty_file"
    """The file has no bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """The bytes are no JPEG, PNG, TIFF or BMP, whatever the file's name says."""
    TRUNCATED = "truncated"
    """The file ends before its image does; what is missing is never painted over."""
    CORRUPT = "corrupt"
    """The file claims to be an image and cannot be decoded."""
    TOO_SMALL = "too_small"
    """A side is shorter than the bundle's smallest side."""
    TOO_LARGE = "too_large"
    """More pixels or bytes than a microscope capture has: refused before decoding."""
    UNSUPPORTED_DEPTH = "unsupported_depth"
    """The pixels' depth cannot be told for certain, and with it how bright they are; export the capture as 8 bits."""
    MULTI_PAGE = "multi_page"
    """The file holds several images; one capture is one image."""
    MISSING = "missing"
    """The file was there at submit and is gone, while its archive is there."""
    CHANGED = "changed"
    """Size or modification time differ from those at submit."""
    NOT_READABLE = "not_readable"
    """The worker's user may not read the file."""
    OUTSIDE_ARCHIVE = "outside_archive"
    """The path leads out of the archive, through a link for instance."""


class MarkCode(StrEnum):
    """What is remarkable about a screened capture. The docstring of each is what docs/data.md prints."""

    OUT_OF_FOCUS = "out_of_focus"
    """Less sharp than all but one in a thousand of the bundle's training captures."""
    OVERSHARP = "oversharp"
    """Sharper than they are: noise, or a camera that sharpens."""
    TOO_DARK = "too_dark"
    """Darker."""
    TOO_BRIGHT = "too_bright"
    """Brighter."""
    FLAT = "flat"
    """Less contrast."""
    HARSH = "harsh"
    """More contrast."""
    PALE = "pale"
    """Paler colours."""
    OVERSTAINED = "overstained"
    """Stronger colours."""
    CLIPPED = "clipped"
    """More pixels cut off at black or white."""
    COLOUR_CAST = "colour_cast"
    """Red or blue out of balance with green."""
    CROWDED = "crowded"
    """More of the area is nucleated cells. Few of them are no fault: most fields of a healthy smear have none."""
    SPARSE = "sparse"
    """Less of the area is cells of any kind."""
    EMPTY_FIELD = "empty_field"
    """Less than a tenth of the area that is usually cells is any."""
    BURNT_IN = "burnt_in"
    """A scale bar, longer than in the training captures, or where they have none."""
    NOVEL = "novel"
    """Unlike the training captures by its embedding."""


PASSING = frozenset({RejectCode.MISSING, RejectCode.CHANGED, RejectCode.NOT_READABLE})
"""Codes that say something of the moment, not of the bytes: the next submit tries such a capture again."""


class SkipReason(StrEnum):
    """Why the archive walker passed a directory entry over. Every skipped entry is named, none is silently dropped."""

    JUNK = "junk"
    """A file that an operating system or a microscope writes beside the captures (Thumbs.db, .DS_Store, ...)."""
    NOT_A_CAPTURE = "not_a_capture"
    """The name's ending is not one of an image format that is screened."""
    NO_PATIENT = "no_patient"
    """The file lies in the archive's root, outside every patient's folder."""
    LINK = "link"
    """A symbolic link: not followed."""
    NOT_A_FILE = "not_a_file"
    """A socket, pipe or device."""
