"""How `screen adapt` looks at an archive of unlabelled captures: it walks the archive as a submit does, decodes and
measures a share of each patient's captures, and runs the bundle's graph on them.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from contract.archive import Archive, FoundCapture
from contract.bundle import Bundle
from contract.errors import CaptureRejected, DataError, StorageFault
from contract.imaging import ImageSpec, RGBImage, decode
from contract.names import display_name
from contract.predictions import Predictions
from contract.quality import MEASURES, measure
from contract.reading import read_capture
from contract.spread import evenly_spread
from trainer.graph import BATCH, GraphRunner
from trainer.progress import bar, say
from trainer.reference import REFERENCE_CAPTURES
from trainer.traits import in_threads

Measures = dict[str, NDArray[np.float64]]
"""Quality measures (contract/quality.py): name -> [N]."""
DOMINANCE = 2
"""No patient gives more captures than this many times the number that the median patient has."""
NAMED = 20
"""How many unreadable captures are named one by one; the message gives only the number of any others."""


@dataclass(frozen=True)
class Looked:
    """N captures of an archive, their `measures`, and the graph's `answers`.

    `found` and `patients` count the whole archive, `unreadable` the chosen captures that cannot be decoded.
    """

    root: bytes
    captures: tuple[FoundCapture, ...]
    measures: Measures
    answers: Predictions
    found: int
    patients: int
    unreadable: int

    @property
    def with_cells(self) -> NDArray[np.bool_]:
        """Which captures have a nucleated cell, [N]; the others prove nothing, whichever microscope they are of."""
        return np.asarray(self.measures["nuclei"] > 0, np.bool_)

    def patient_numbers(self) -> NDArray[np.int64]:
        """A number for each capture's patient, [N]; patients are numbered in the order of their names."""
        numbers = np.unique([capture.patient for capture in self.captures], return_inverse=True)[1]
        return np.asarray(numbers, np.int64)


def look(bundle: Bundle, runner: GraphRunner, walked: Archive) -> Looked:
    """Decode, measure and run the captures of an archive that `chosen` picks; the unreadable are named and left out.

    Raises ArchiveUnavailable, and DataError if no capture can be read.
    """
    _say_walked(walked)
    captures = chosen(list(walked.captures))
    kept: list[FoundCapture] = []
    measures: list[Measures] = []
    parts: list[Predictions] = []
    faults: list[str] = []
    with bar("looking at the archive", len(captures)) as progress:
        for batch in decoded(walked.root, captures, bundle.manifest.image):
            readable = [(capture, pixels) for capture, pixels in batch if not isinstance(pixels, str)]
            faults += [f"{display_name(capture.path)} ({why})" for capture, why in batch if isinstance(why, str)]
            if readable:
                kept += [capture for capture, _ in readable]
                batch_pixels = np.stack([pixels for _, pixels in readable])
                measures.append(measured(batch_pixels))
                parts.append(runner.predict(batch_pixels))
            progress.advance(len(batch))
    _say_unreadable(faults)
    if not parts:
        raise DataError(
            f"{display_name(walked.root)}: none of its {len(captures)} captures can be read, so there is nothing to "
            "adapt to"
        )
    return Looked(
        root=walked.root,
        captures=tuple(kept),
        measures={name: np.concatenate([of_batch[name] for of_batch in measures]) for name in MEASURES},
        answers=Predictions.joined(parts),
        found=len(walked.captures),
        patients=walked.patients,
        unreadable=len(faults),
    )


def chosen(captures: Sequence[FoundCapture], most: int = REFERENCE_CAPTURES) -> list[FoundCapture]:
    """Choose captures so that no patient dominates: at most `most` altogether, and from each patient at most DOMINANCE
    times what the median patient has, spread evenly over the patient's captures. `captures` come patient by patient.
    """
    by_patient = [list(group) for _, group in groupby(captures, key=lambda capture: capture.patient)]
    counts = np.asarray([len(group) for group in by_patient])
    if not len(counts):
        return []
    limit = max(1, int(DOMINANCE * np.median(counts)))
    while limit > 1 and int(np.minimum(counts, limit).sum()) > most:
        limit -= 1
    return [group[place] for group in by_patient for place in evenly_spread(len(group), limit)]


def decoded(
    root: bytes, captures: Sequence[FoundCapture], image: ImageSpec
) -> Iterator[list[tuple[FoundCapture, RGBImage | str]]]:
    """The captures batch by batch, each with its pixels uint8 [S, S, 3], or with the reason why it cannot be read.

    Raises ArchiveUnavailable if the archive itself is gone.
    """

    def pixels_of(capture: FoundCapture) -> RGBImage | str:
        try:
            read = read_capture(root, capture.path, capture.size_bytes, capture.modified_ns)
            return decode(read.data, image).pixels
        except CaptureRejected as error:
            return f"{error.code}: {error}"
        except StorageFault as error:
            return f"cannot be read: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(captures), BATCH):
            batch = captures[start : start + BATCH]
            yield list(zip(batch, pool.map(pixels_of, batch), strict=True))


def pixels_of(root: bytes, captures: Sequence[FoundCapture], image: ImageSpec) -> Iterator[NDArray[np.uint8]]:
    """The pixels of captures batch by batch, uint8 [B, S, S, 3]. Raises DataError naming one that cannot be read."""
    for batch in decoded(root, captures, image):
        for capture, pixels in batch:
            if isinstance(pixels, str):
                raise DataError(f"{display_name(capture.path)}: {pixels}; repair it or take it out, and call again")
        yield np.stack([pixels for _, pixels in batch])


def measured(pixels: NDArray[np.uint8]) -> Measures:
    """Quality measures of captures, uint8 [N, S, S, 3]."""
    measures = in_threads(lambda row: measure(pixels[row]), range(len(pixels)))
    return {name: np.asarray([of_capture[name] for of_capture in measures]) for name in MEASURES}


def _say_walked(walked: Archive) -> None:
    """Name the patients that have nothing to adapt to, and doubt the patients' depth."""
    patients = [patient.named for patient in walked.without_captures]
    for patient in patients[:NAMED]:
        say(f"warning: no captures of {patient}")
    if len(patients) > NAMED:
        say(f"warning: {len(patients) - NAMED} more patients have no captures")
    if doubt := walked.layout.doubt(walked.patient_depth):
        say(f"warning: is each of these folders one patient? {doubt}")


def _say_unreadable(faults: Sequence[str]) -> None:
    for fault in faults[:NAMED]:
        say(f"warning: left out {fault}")
    if len(faults) > NAMED:
        say(f"warning: {len(faults) - NAMED} more captures cannot be read and are left out")
