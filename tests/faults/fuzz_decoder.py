"""Coverage-guided fuzzing of the decoder: `python -m tests.faults.fuzz_decoder CORPUS_FOLDER [libFuzzer options]`.

Whatever the bytes are, decoding gives a square of pixels or a rejection with a code, and nothing else: no other error,
no crash. libFuzzer (through Atheris) changes the files of the corpus so that they reach code that none has reached.
"""

import sys

import atheris

with atheris.instrument_imports(include=["contract", "PIL"]):
    from contract.errors import CaptureRejected
    from contract.imaging import MAX_PIXELS, Decoded, ImageSpec, decode
    from contract.states import RejectCode

SPEC = ImageSpec(size=64, min_side=16)


def decodes_or_rejects(data: bytes) -> None:
    try:
        decoded = decode(data, SPEC)
    except CaptureRejected as error:
        rejected = error
    else:
        check(decoded)
        return
    assert rejected.code in RejectCode
    assert str(rejected).isprintable()


def check(decoded: Decoded) -> None:
    assert decoded.pixels.shape == (64, 64, 3)
    assert decoded.pixels.dtype == "uint8"
    assert 16 * 16 <= decoded.width * decoded.height <= MAX_PIXELS


if __name__ == "__main__":
    atheris.Setup(sys.argv, decodes_or_rejects)
    atheris.Fuzz()
