"""An archive of unlabelled captures as `screen adapt` sees it: walked as a submit walks it, a share of each patient's
captures decoded, measured and put through the bundle's graph.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.archive import FoundCapture, walk_archive
from contract.bundle import Bundle
from contract.errors import ArchiveUnavailable, CaptureRejected, DataError
from contract.imaging import ImageSpec, RGBImage, decode
from contract.names import display_name
from contract.quality import MEASURES, measure
from trainer.graph import BATCH, GraphRunner, Predictions
from trainer.progress import bar, say
from trainer.reference import REFERENCE_CAPTURES
from trainer.traits import in_threads

Measures = dict[str, NDArray[np.float64]]
"""Quality measures (contract/quality.py): name -> [N]."""
DOMINANCE = 2
"""A patient counts with at most so many times the captures that the median patient has."""
NAMED = 20
"""Unreadable captures that are named one by one; of more, the number is said."""


@dataclass(frozen=True)
class Looked:
    """N captures of an archive, their `measures`, and what the graph answered.

    `found` and `patients` count the whole archive, `unreadable` those of the chosen that cannot be decoded.
    """

    root: bytes
    captures: tuple[FoundCapture, ...]
    measures: Measures
    answers: Predictions
    found: int
    patients: int
    unreadable: int

    def patient_numbers(self) -> NDArray[np.int64]:
        """The number of each capture's patient, [N], patients in the order of their names."""
        numbers = np.unique([one.patient for one in self.captures], return_inverse=True)[1]
        return np.asarray(numbers, np.int64)


def look(bundle: Bundle, runner: GraphRunner, archive: Path) -> Looked:
    """Decode, measure and run the captures of `archive` that `chosen` picks; the unreadable are named and left out.

    Raises ArchiveError, ArchiveUnavailable.
    """
    found = walk_archive(archive)
    captures = chosen(list(found.captures))
    kept: list[FoundCapture] = []
    measures: list[Measures] = []
    parts: list[Predictions] = []
    faults: list[str] = []
    with bar("looking at the archive", len(captures)) as progress:
        for batch in decoded(found.root, captures, bundle.manifest.image):
            sound = [(one, pixels) for one, pixels in batch if not isinstance(pixels, str)]
            faults += [f"{display_name(one.path)} ({why})" for one, why in batch if isinstance(why, str)]
            if sound:
                kept += [one for one, _ in sound]
                batch_pixels = np.stack([pixels for _, pixels in sound])
                measures.append(measured(batch_pixels))
                parts.append(runner.predict(batch_pixels))
            progress.advance(len(batch))
    _say_unreadable(faults)
    return Looked(
        root=found.root,
        captures=tuple(kept),
        measures={name: np.concatenate([[], *(one[name] for one in measures)]) for name in MEASURES},
        answers=joined(parts),
        found=len(found.captures),
        patients=found.patients,
        unreadable=len(faults),
    )


def chosen(captures: Sequence[FoundCapture], most: int = REFERENCE_CAPTURES) -> list[FoundCapture]:
    """Of each patient's captures at most DOMINANCE times what the median patient has, and `most` altogether, spread
    evenly over them, so that no patient dominates. `captures` come patient by patient.
    """
    by_patient = [list(group) for _, group in groupby(captures, key=lambda one: one.patient)]
    counts = np.asarray([len(group) for group in by_patient])
    if not len(counts):
        return []
    limit = max(1, int(DOMINANCE * np.median(counts)))
    while limit > 1 and int(np.minimum(counts, limit).sum()) > most:
        limit -= 1
    return [
        group[place]
        for group in by_patient
        for place in np.unique(np.linspace(0, len(group) - 1, min(limit, len(group))).astype(int))
    ]


def decoded(
    root: bytes, captures: Sequence[FoundCapture], image: ImageSpec
) -> Iterator[list[tuple[FoundCapture, RGBImage | str]]]:
    """The captures batch by batch, each with its pixels uint8 [S, S, 3], or with the reason why it cannot be read.

    Raises ArchiveUnavailable where the archive itself is gone.
    """

    def pixels_of(capture: FoundCapture) -> RGBImage | str:
        try:
            with open(os.path.join(root, capture.path), "rb") as stream:  # noqa: PTH118, PTH123 - bytes
                return decode(stream.read(), image).pixels
        except CaptureRejected as error:
            return f"{error.code}: {error}"
        except OSError as error:
            if not os.path.isdir(root):  # noqa: PTH112 - bytes
                raise ArchiveUnavailable(f"the archive is gone ({error.strerror}); mount it and call again") from error
            return f"cannot be read: {error.strerror}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(captures), BATCH):
            batch = captures[start : start + BATCH]
            yield list(zip(batch, pool.map(pixels_of, batch), strict=True))


def pixels_of(root: bytes, captures: Sequence[FoundCapture], image: ImageSpec) -> Iterator[NDArray[np.uint8]]:
    """The pixels of captures batch by batch, uint8 [B, S, S, 3]. Raises DataError naming one that cannot be read."""
    for batch in decoded(root, captures, image):
        for capture, pixels in batch:
            if isinstance(pixels, str):
                raise DataError(f"{display_name(capture.path)}: {pixels}; mend it or take it out, and call again")
        yield np.stack([pixels for _, pixels in batch])


def measured(pixels: NDArray[np.uint8]) -> Measures:
    """Quality measures of captures, uint8 [N, S, S, 3]."""
    measures = in_threads(lambda row: measure(pixels[row]), range(len(pixels)))
    return {name: np.asarray([one[name] for one in measures]) for name in MEASURES}


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Answers of several batches as one, without activation maps."""
    if not parts:
        return Predictions(np.zeros((0, 0)), np.zeros((0, 0), np.float32), None)
    return Predictions(
        np.concatenate([one.probabilities for one in parts]), np.concatenate([one.embedding for one in parts]), None
    )


def _say_unreadable(faults: Sequence[str]) -> None:
    for fault in faults[:NAMED]:
        say(f"warning: left out {fault}")
    if len(faults) > NAMED:
        say(f"warning: and {len(faults) - NAMED} more that cannot be read")
