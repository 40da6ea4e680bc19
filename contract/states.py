"""The closed lists: states of captures, chunks, cases and reviews, verdicts, codes. SQL stores these strings."""

from enum import StrEnum


class Code(StrEnum):
    """A closed list whose members say what they mean: `make docs` prints `meaning` in docs/data.md."""

    _value_: str
    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> "Code":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class CaptureState(Code):
    """Every capture of a finished run is in exactly one of the last three states."""

    PENDING = "pending", "it has not ended yet"
    SCREENED = "screened", "it has a label, probabilities and measures of quality"
    REJECTED = "rejected", "it cannot be screened; its reject code says why"
    QUARANTINED = "quarantined", "its worker's process ended several times while it was screened alone"


class ChunkState(Code):
    """pending -> leased (until, worker, attempt) -> done; after its lease is over, another worker may claim it. One
    that ends worker after worker is held.
    """

    PENDING = "pending", "it waits for a worker"
    LEASED = "leased", "a worker has it until its lease ends; then another worker may claim it"
    HELD = (
        "held",
        "worker after worker ended while it had this chunk and was at none of its captures: nobody claims it until "
        "`screen resume`",
    )
    DONE = "done", "all of its captures have ended"


class CaseState(Code):
    """A case is open until its last capture has ended, then aggregated: it has its result and its queue row."""

    OPEN = "open", "some of its captures have not ended"
    AGGREGATED = "aggregated", "all of its captures have ended, and it has its result"


class Verdict(Code):
    """What a case is proposed as, for review by a haematologist."""

    BENIGN = "benign", "the score is at or below the bundle's threshold for benign"
    ALL = "all", "the score is at or above the bundle's threshold for ALL"
    INDETERMINATE = "indeterminate", "the score lies between the two thresholds"
    INSUFFICIENT = (
        "insufficient",
        "fewer captures count than the rule needs, or the score is benign but most captures are excluded",
    )


class ReviewAction(Code):
    """What a reviewer does with a case; each action is a row that is never changed afterwards."""

    CONFIRM = "confirm", "the proposed result is right"
    OVERRIDE = "override", "the right result is another one; the row says which and why"
    DEFER = "defer", "decide later: `screen review next` offers the case after all others"
    COMMENT = "comment", "a note"
    SECOND_OPINION = "second_opinion", "at least two reviewers must agree from now on"
    SETTLE_IDENTITY = (
        "settle_identity",
        "the captures that lie under other patients too were looked at: they are no conflict for this patient any more",
    )


class ReportCause(Code):
    """Why a row stands in the reporting queue. The first two report a case for the first time; all others name the row
    that they replace.
    """

    SCREENED = "screened", "the case has its result"
    SIGNED_OFF = "signed_off", "reviewers have closed the case, in a run that reports at sign-off"
    SIGNED = "signed", "reviewers have closed the case as it was reported, in a run that reports at screening"
    OVERRIDE = "override", "reviewers closed the case with another verdict or subtype, or opened it again"
    RECOMPUTED = (
        "recomputed",
        "captures were tried again, a capture was found under another patient too, or `screen recompute "
        "--apply` changed the result",
    )
    SUPERSEDED = (
        "superseded",
        "a newer case of the same archive and patient has taken the place of the one in the row that this one replaces",
    )


class EventKind(Code):
    """What the audit records."""

    SUBMITTED = "submitted", "a run was written; the detail counts the skipped files"
    SET_APART = "set_apart", "a capture is screened alone because its worker ended or it took too long"
    HALVED = "halved", "a chunk that was claimed too often was cut in two"
    QUARANTINED = "quarantined", "a capture was given up"
    HELD = "held", "a chunk was held: worker after worker ended while it was at none of its captures"
    RELEASED = "released", "held chunks were released: workers may claim them again"
    CANCELLED = "cancelled", "a run was cancelled"
    RESUMED = "resumed", "a run was resumed"
    RETRIED = "retried", "captures that had ended badly were opened again"
    RECOMPUTED = "recomputed", "the result of a case was written again; the detail has the result before"
    RESULT_CHANGED = (
        "result_changed",
        "the database itself noticed that the result of a case is another one, whoever wrote it; the detail has both",
    )
    IDENTITY_CONFLICT = (
        "identity_conflict",
        "a capture was found under two patients, or no longer; the detail says which, and the review that settled it",
    )
    SUPERSEDED = "superseded", "a newer case of the patient took the case's place; the detail names it"
    PURGED = "purged", "runs were removed; the detail counts what was removed"
    RESTORED = "restored", "a backup was restored: the database got a new UUID; the detail has it and the one before"


class ReviewState(Code):
    """Where the review of a case stands: the view case_review computes it from the rows."""

    WAITING = "waiting", "no reviewer has an opinion that counts"
    PARTLY_SIGNED = "partly_signed", "the reviewers who have signed agree, but more must sign"
    SECOND_OPINION = "second_opinion", "a reviewer has asked for a second opinion, and no opinions differ"
    DISAGREEMENT = "disagreement", "reviewers disagree, and not enough of them share the latest opinion"
    DEFERRED = "deferred", "the last action on the case was to put it off"
    CLOSED = "closed", "as many reviewers as must agree share the latest opinion"
    SUPERSEDED = (
        "superseded",
        "a newer case of the same archive and patient took its place before it was closed: review that one",
    )


class RejectCode(Code):
    """Why a capture cannot be screened."""

    EMPTY_FILE = "empty_file", "the file has no bytes"
    NOT_AN_IMAGE = "not_an_image", "the bytes are not a JPEG, PNG, TIFF or BMP image, whatever the file's name says"
    TRUNCATED = "truncated", "the file ends before its image does; the missing part is not filled in"
    CORRUPT = "corrupt", "it claims to be an image but cannot be decoded"
    TOO_SMALL = "too_small", "a side is shorter than the bundle's smallest side"
    TOO_LARGE = "too_large", "more than 64 megapixels or 256 MiB: refused before decoding"
    UNSUPPORTED_DEPTH = (
        "unsupported_depth",
        "the brightness of the pixels is not known, or of a depth that is not read: 16-bit colour that fills less than"
        " half of its range, signed or floating-point numbers, 12 or 32 bits; export as 8 bits",
    )
    UNSUPPORTED_KIND = (
        "unsupported_kind",
        "sound, but of a kind that is not read, such as lossless JPEG, or JPEG 2000 inside a TIFF; the sentence beside"
        " it names the kind and says how to export it",
    )
    MULTI_PAGE = "multi_page", "several images in one file; export each one as its own file"
    MISSING = (
        "missing",
        "it was there at submit and is gone now, although its disk is there: the patient's folder is the same, or at"
        " least half of the captures beside it are there; the next submit tries it again",
    )
    CHANGED = "changed", "size or modification time differ from those at submit; the next submit tries it again"
    NOT_READABLE = (
        "not_readable",
        "the worker's user may not read it, but at least half of those beside it; the next submit tries it again",
    )
    OUTSIDE_ARCHIVE = "outside_archive", "the path leads through a link or out of the archive"


class MarkCode(Code):
    """What is remarkable about a screened capture."""

    OUT_OF_FOCUS = "out_of_focus", "less sharp than all but one in a thousand of the training captures"
    OVERSHARP = "oversharp", "sharper than the training captures: noise, or a camera that sharpens"
    TOO_DARK = "too_dark", "darker than the training captures"
    TOO_BRIGHT = "too_bright", "brighter than the training captures"
    FLAT = "flat", "less contrast than the training captures"
    HARSH = "harsh", "more contrast than the training captures"
    PALE = "pale", "paler colours than the training captures"
    OVERSTAINED = "overstained", "stronger colours than the training captures"
    CLIPPED = "clipped", "more pixels are cut off at black or white"
    COLOUR_CAST = "colour_cast", "red or blue is out of balance with green"
    CROWDED = (
        "crowded",
        "nucleated cells cover more of the area; few are no fault, because most fields of a healthy smear have none",
    )
    SPARSE = "sparse", "cells of any kind cover less of the area than in the training captures"
    EMPTY_FIELD = (
        "empty_field",
        "cells cover less than a tenth of the area that they usually cover (the median of the training captures)",
    )
    NO_NUCLEATED_CELL = (
        "no_nucleated_cell",
        "no nucleated cell was found: the field proves nothing, neither benign nor ALL; set without a reference too",
    )
    BURNT_IN = "burnt_in", "it has a scale bar longer than in the training captures, or one where they have none"
    NOVEL = "novel", "its embedding is unlike those of the training captures"


PASSING = frozenset({RejectCode.MISSING, RejectCode.CHANGED, RejectCode.NOT_READABLE})
"""Codes that describe the moment, not the bytes: the next submit tries such a capture again."""


class SkipReason(Code):
    """Why the archive walker skipped a directory entry. Every skipped entry is named, none is dropped silently."""

    JUNK = (
        "junk",
        "beside the captures by accident: `Thumbs.db`, `.DS_Store`, hidden files and folders, and the folders in which "
        "storage boxes and desktops keep what was deleted (`#recycle`, `$RECYCLE.BIN`, `lost+found`, ...)",
    )
    NOT_A_CAPTURE = (
        "not_a_capture",
        "the name does not end like a file of an image format that is screened; if its ending says nothing (none, "
        "`.dcm`, `.dat`, `.img`, a number), its first bytes are not those of such an image",
    )
    DICOM = "dicom", "DICOM, which is not supported; export the captures as JPEG, PNG, TIFF or BMP"
    NO_PATIENT = "no_patient", "outside every patient's folder"
    LINK = "link", "a symbolic link, which is not followed"
    NOT_A_FILE = "not_a_file", "a socket, pipe or device"
    NOT_READABLE = (
        "not_readable",
        "its ending says nothing, and this user may not read its first bytes, so it may be a capture",
    )
    PATH_TOO_LONG = "path_too_long", "a capture or folder whose path below the archive is longer than 2,500 bytes"


UNSCREENED = frozenset({SkipReason.NOT_READABLE, SkipReason.PATH_TOO_LONG})
"""Reasons for which captures may be left out of their patient's case: somebody must look at them."""


class NoCaptures(Code):
    """Why a patient of an archive has no captures in a run. No patient is dropped silently."""

    EMPTY = "empty", "its folder holds nothing, or only junk"
    ONLY_LINKS = "only_links", "its folder is a link, or holds only links; links are not followed"
    NO_CAPTURE_FILES = "no_capture_files", "its folder holds files, but none of them is a capture"
    NOT_READABLE = (
        "not_readable",
        "something in its folder could not be read, so none of its captures was submitted; an earlier result stays",
    )
    NOT_AT_DEPTH = (
        "not_at_depth",
        "a folder above the depth of `--patient-depth`, without a patient's folder in it",
    )
    GONE = "gone", "it had captures in an earlier run, and its folder is no longer among the archive's patients"


class EngineName(Code):
    """Engines that run a bundle's network, in the order in which `auto` tries them (worker/engines/registry.py)."""

    AUTO = "auto", "the first of the others that is installed and reproduces the bundle"
    TENSORRT = (
        "tensorrt",
        "NVIDIA devices; in float16 if the bundle has `model.half.onnx`, else in float32. "
        "`pip install 'slide-screen[tensorrt]'` (tensorrt-rtx and cuda-python); on data-centre devices install "
        "`tensorrt` from NVIDIA's index instead, which is then preferred",
    )
    OPENVINO = (
        "openvino",
        "CPUs; in bfloat16 if the processor computes in it, else in float32. It is always installed",
    )
    ONNXRUNTIME = (
        "onnxruntime",
        "any CPU, and CUDA with onnxruntime-gpu; in float32. `slide-screen[onnxruntime]` or "
        "`slide-screen[onnxruntime-gpu]`, never both",
    )


class Precision(Code):
    """The arithmetic of an engine. A bundle's golden captures decide whether it may be used."""

    AUTO = "auto", "the fastest in which the engine reproduces the bundle"
    FLOAT32 = "float32", "32 bits: the bundle's own figures were measured in it"
    BFLOAT16 = "bfloat16", "16 bits with the range of float32, on processors that have instructions for it"
    FLOAT16 = "float16", "16 bits, on GPUs"
