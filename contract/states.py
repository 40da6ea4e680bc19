"""The closed lists: states of captures, chunks, cases and reviews, verdicts, codes. Stored in SQL as these strings."""

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
    """Every capture of a finished run is in exactly one of the last three."""

    PENDING = "pending", "it has not ended yet"
    SCREENED = "screened", "it has a label, probabilities and measures of quality"
    REJECTED = "rejected", "it cannot be screened; its reject code says why"
    QUARANTINED = "quarantined", "its worker ended again and again while it was screened alone"


class ChunkState(Code):
    """pending -> leased (until, worker, attempt) -> done; a lease that is over may be claimed again."""

    PENDING = "pending", "it waits for a worker"
    LEASED = "leased", "a worker has it until its lease ends; then another worker may claim it"
    DONE = "done", "each of its captures has ended"


class CaseState(Code):
    """A case is open until its last capture has ended, then aggregated: it has its result and its queue row."""

    OPEN = "open", "some of its captures have not ended"
    AGGREGATED = "aggregated", "all of its captures have ended, and it has its result"


class Verdict(Code):
    """What a case is proposed as, for review by a haematologist."""

    BENIGN = "benign", "the score is at or below the bundle's threshold for benign"
    ALL = "all", "the score is at or above the bundle's threshold for ALL"
    INDETERMINATE = "indeterminate", "the score lies between the two"
    INSUFFICIENT = (
        "insufficient",
        "fewer captures that count than the rule wants, or a benign score with most captures excluded",
    )


class ReviewAction(Code):
    """What a reviewer does with a case; each is a row that nothing changes afterwards."""

    CONFIRM = "confirm", "the proposed result is right"
    OVERRIDE = "override", "it is something else; the row says what and why"
    DEFER = "defer", "put off: `screen review next` hands it out after all others"
    COMMENT = "comment", "a note"
    SECOND_OPINION = "second_opinion", "at least two reviewers must agree from now on"


class ReportCause(Code):
    """Why a row stands in the reporting queue; the last two correct the row before them."""

    SCREENED = "screened", "the case has its result"
    SIGNED_OFF = "signed_off", "reviewers have closed the case, in a run that reports at sign-off"
    OVERRIDE = "override", "reviewers closed the case with another verdict or subtype, or opened it again"
    RECOMPUTED = (
        "recomputed",
        "captures were tried again, a capture was found under another patient too, or `screen recompute "
        "--apply` changed the result",
    )


class EventKind(Code):
    """What the audit tells of."""

    SUBMITTED = "submitted", "a run was written; the detail names the files that were passed over"
    SET_APART = "set_apart", "a capture that ended its worker, or took too long, is screened alone"
    HALVED = "halved", "a chunk that was claimed too often was cut into two"
    QUARANTINED = "quarantined", "a capture was given up"
    CANCELLED = "cancelled", "a run was cancelled"
    RESUMED = "resumed", "a run was resumed"
    RETRIED = "retried", "captures that had ended badly were opened again"
    RECOMPUTED = "recomputed", "the result of a case was written again; the detail has the result before"
    IDENTITY_CONFLICT = "identity_conflict", "a capture was found under two patients"
    PURGED = "purged", "runs were removed; the detail counts what went"


class ReviewState(Code):
    """Where the review of a case stands: the view case_review says it from the rows."""

    WAITING = "waiting", "no opinion counts"
    PARTLY_SIGNED = "partly_signed", "those who have signed agree, and more are wanted"
    SECOND_OPINION = "second_opinion", "nobody has said otherwise, and somebody has asked for a second opinion"
    DISAGREEMENT = "disagreement", "reviewers differ, and not enough of them hold the latest opinion"
    DEFERRED = "deferred", "the last that was done with it is that somebody put it off"
    CLOSED = "closed", "as many reviewers as are wanted hold the latest opinion"


class RejectCode(Code):
    """Why a capture cannot be screened."""

    EMPTY_FILE = "empty_file", "the file has no bytes"
    NOT_AN_IMAGE = "not_an_image", "the bytes are no JPEG, PNG, TIFF or BMP, whatever the name says"
    TRUNCATED = "truncated", "the file ends before its image does; nothing is painted over"
    CORRUPT = "corrupt", "it claims to be an image and cannot be decoded"
    TOO_SMALL = "too_small", "a side is shorter than the bundle's smallest side"
    TOO_LARGE = "too_large", "more than 64 megapixels or 256 MiB: refused before decoding"
    UNSUPPORTED_DEPTH = (
        "unsupported_depth",
        "how bright the pixels are cannot be told: 16-bit colour that fills less than half of its range, or"
        " floating point from 0 to 1; export as 8 bits",
    )
    MULTI_PAGE = "multi_page", "several images in one file; export each as a file of its own"
    MISSING = (
        "missing",
        "there at submit, gone when screened, while the archive is there; tried again at the next submit",
    )
    CHANGED = "changed", "size or modification time differ from those at submit; tried again at the next submit"
    NOT_READABLE = "not_readable", "the worker's user may not read it; tried again at the next submit"
    OUTSIDE_ARCHIVE = "outside_archive", "the path leads through a link or out of the archive"


class MarkCode(Code):
    """What is remarkable about a screened capture."""

    OUT_OF_FOCUS = "out_of_focus", "less sharp than all but one in a thousand of the training captures"
    OVERSHARP = "oversharp", "sharper than they are: noise, or a camera that sharpens"
    TOO_DARK = "too_dark", "darker"
    TOO_BRIGHT = "too_bright", "brighter"
    FLAT = "flat", "less contrast"
    HARSH = "harsh", "more contrast"
    PALE = "pale", "paler colours"
    OVERSTAINED = "overstained", "stronger colours"
    CLIPPED = "clipped", "more pixels cut off at black or white"
    COLOUR_CAST = "colour_cast", "red or blue out of balance with green"
    CROWDED = (
        "crowded",
        "more of the area is nucleated cells; few are no fault, since most fields of a healthy smear have none",
    )
    SPARSE = "sparse", "less of the area is cells of any kind"
    EMPTY_FIELD = (
        "empty_field",
        "less than a tenth of the area that is usually cells (the training captures' median) is any",
    )
    BURNT_IN = "burnt_in", "a scale bar, longer than in the training captures, or where they have none"
    NOVEL = "novel", "unlike the training captures by its embedding"


PASSING = frozenset({RejectCode.MISSING, RejectCode.CHANGED, RejectCode.NOT_READABLE})
"""Codes that say something of the moment, not of the bytes: the next submit tries such a capture again."""


class SkipReason(Code):
    """Why the archive walker passed a directory entry over. Every skipped entry is named, none is silently dropped."""

    JUNK = "junk", "beside the captures by accident: `Thumbs.db`, `.DS_Store`, hidden files and folders, ..."
    NOT_A_CAPTURE = "not_a_capture", "the name's ending is not one of an image format that is screened"
    NO_PATIENT = "no_patient", "in the archive's root, outside every patient's folder"
    LINK = "link", "a symbolic link: not followed"
    NOT_A_FILE = "not_a_file", "a socket, pipe or device"


class EngineName(Code):
    """What may run a bundle's network, in the order in which `auto` tries them (worker/engines/registry.py)."""

    AUTO = "auto", "the first of the others that is installed and reproduces the bundle"
    TENSORRT = (
        "tensorrt",
        "NVIDIA devices; in float16 where the bundle has `model.half.onnx`, else in float32. "
        "`pip install 'slide-screen[tensorrt]'` (tensorrt-rtx and cuda-python); on data-centre devices install "
        "`tensorrt` from NVIDIA's index instead, which is then preferred",
    )
    OPENVINO = (
        "openvino",
        "CPUs; in bfloat16 where the processor computes in it, else in float32. It is always installed",
    )
    ONNXRUNTIME = (
        "onnxruntime",
        "any CPU, and CUDA with onnxruntime-gpu; in float32. `slide-screen[onnxruntime]` or "
        "`slide-screen[onnxruntime-gpu]`, never both",
    )


class Precision(Code):
    """The arithmetic of an engine. A bundle's golden captures decide whether it may be used."""

    AUTO = "auto", "the fastest in which the engine reproduces the bundle"
    FLOAT32 = "float32", "32 bits: what the bundle's own figures were taken in"
    BFLOAT16 = "bfloat16", "16 bits with the range of float32, on processors that have instructions for it"
    FLOAT16 = "float16", "16 bits, on GPUs"
