"""Archives to measure with: drawings of 1024x768, and tiny files by the hundred thousand."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.record import console
from contract.outcomes import CaptureRef
from contract.settings import Settings
from trainer.synth.archive import write_archive
from worker.pipeline import Work

PER_PATIENT = 32
TINY_PER_PATIENT = 100


def drawings(folder: Path, count: int, seed: int = 4, per_patient: int = PER_PATIENT) -> Path:
    """At least `count` JPEG captures of 1024x768, as `screen synth` draws them; existing captures are kept."""
    archive = folder / f"drawings-{count}"
    patients = -(-count // per_patient)
    with console.status(f"drawing {patients * per_patient} captures"):
        write_archive(archive, patients, per_patient, seed)
    return archive


def files_of(archive: Path, count: int) -> list[Path]:
    """The first `count` captures."""
    return sorted(archive.rglob("*.jpg"))[:count]


def tiny(folder: Path, count: int) -> Path:
    """`count` captures of 64x64, 100 of each patient; all captures of a patient are hard links to one file."""
    archive = folder / f"tiny-{count}"
    if archive.exists():
        return archive
    unfinished = archive.with_name(archive.name + ".making")
    with console.status(f"writing {count} tiny captures"):
        for patient in range(-(-count // TINY_PER_PATIENT)):
            patient_folder = unfinished / f"patient-{patient:06d}"
            patient_folder.mkdir(parents=True, exist_ok=True)
            first = patient_folder / "0000.jpg"
            Image.new("RGB", (64, 64), (90, 150, 180)).save(first, quality=80, comment=f"patient {patient}")
            for capture in range(1, min(TINY_PER_PATIENT, count - patient * TINY_PER_PATIENT)):
                os.link(first, patient_folder / f"{capture:04d}.jpg")
    unfinished.rename(archive)
    return archive


def chunks_of(archive: Path, files: Sequence[Path]) -> list[Work]:
    """The files as chunks of the default size, in reverse order, so that `pop` takes the first."""
    refs = []
    for number, file in enumerate(files):
        status = file.stat()
        refs.append(CaptureRef(number, str(file.relative_to(archive)).encode(), status.st_size, status.st_mtime_ns))
    size = Settings().chunk_size
    return [Work(str(archive).encode(), refs[start : start + size]) for start in range(0, len(refs), size)][::-1]
