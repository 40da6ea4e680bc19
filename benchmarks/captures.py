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


def drawings(folder: Path, count: int, seed: int = 4) -> Path:
    """At least `count` captures of 1024x768, JPEG, as `screen synth` draws them; what is there is kept."""
    archive = folder / f"drawings-{count}"
    patients = -(-count // PER_PATIENT)
    with console.status(f"drawing {patients * PER_PATIENT} captures"):
        write_archive(archive, patients, PER_PATIENT, seed)
    return archive


def files_of(archive: Path, count: int) -> list[Path]:
    """The first so many captures."""
    return sorted(archive.rglob("*.jpg"))[:count]


def tiny(folder: Path, count: int) -> Path:
    """`count` captures of 64x64, 100 of each patient; those of one patient are one file under many names."""
    archive = folder / f"tiny-{count}"
    if archive.exists():
        return archive
    making = archive.with_name(archive.name + ".making")
    with console.status(f"writing {count} tiny captures"):
        for patient in range(-(-count // TINY_PER_PATIENT)):
            own = making / f"patient-{patient:06d}"
            own.mkdir(parents=True, exist_ok=True)
            first = own / "0000.jpg"
            Image.new("RGB", (64, 64), (90, 150, 180)).save(first, quality=80, comment=f"patient {patient}")
            for capture in range(1, min(TINY_PER_PATIENT, count - patient * TINY_PER_PATIENT)):
                os.link(first, own / f"{capture:04d}.jpg")
    making.rename(archive)
    return archive


def chunks_of(archive: Path, files: Sequence[Path]) -> list[Work]:
    """The files as chunks of the default size, the last first, to be popped."""
    refs = []
    for number, file in enumerate(files):
        status = file.stat()
        refs.append(CaptureRef(number, str(file.relative_to(archive)).encode(), status.st_size, status.st_mtime_ns))
    size = Settings().chunk_size
    return [Work(str(archive).encode(), refs[start : start + size]) for start in range(0, len(refs), size)][::-1]
