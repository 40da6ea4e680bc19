"""What `screen adapt` takes for a microscope's own captures, what it asks to be labelled, and what it makes of batch
norms: on numbers made up for it, of which it is known what belongs together.
"""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from contract.archive import FoundCapture  # noqa: E402
from contract.errors import DataError  # noqa: E402
from contract.novelty import open_reference  # noqa: E402
from contract.predictions import Predictions  # noqa: E402
from contract.quality import MEASURES  # noqa: E402
from tests.support.bundles import colour_bundle  # noqa: E402
from trainer import adapt_labels, adapt_reference  # noqa: E402
from trainer.adapt_archive import DOMINANCE, Looked, chosen  # noqa: E402
from trainer.adapt_labels import BORDER, RANDOM, read_labels  # noqa: E402
from trainer.adapt_majority import majority  # noqa: E402
from trainer.reference import write_embeddings  # noqa: E402

WIDTHS = [12, 6]
SMEAR = {"nuclei": 0.03, "cells": 0.4, "sharpness": 300.0}
PHOTOGRAPH = {"nuclei": 0.0, "cells": 0.9, "sharpness": 900.0}


def capture(patient: int, number: int) -> FoundCapture:
    return FoundCapture(f"p{patient:02d}/{number:03d}.jpg".encode(), f"p{patient:02d}".encode(), 1, 1)


def looked(*parts: tuple[np.ndarray, np.ndarray, dict[str, float]]) -> Looked:
    """An archive of parts: embeddings [N, 18], patients' numbers [N], and the quality that all of a part have."""
    embeddings = np.concatenate([one for one, _, _ in parts]).astype(np.float32)
    patients = np.concatenate([one for _, one, _ in parts])
    rng = np.random.default_rng(5)
    measures = {
        name: np.concatenate([np.full(len(e), quality.get(name, 1.0)) for e, _, quality in parts]) for name in MEASURES
    }
    measures["sharpness"] = measures["sharpness"] * rng.uniform(0.9, 1.1, len(embeddings))
    probabilities = rng.dirichlet([1, 1, 1, 1], len(embeddings))
    captures = tuple(capture(int(one), row) for row, one in enumerate(patients))
    answers = Predictions(probabilities, None, embeddings)
    return Looked(b"", captures, measures, answers, len(captures), len(np.unique(patients)), 0)


def microscope(count: int = 120, patients: int = 8, *, at: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Captures of a microscope whose patients differ in stain: clouds beside one another."""
    rng = np.random.default_rng(int(10 * at) + count)
    of = np.arange(count) % patients
    return at + 0.4 * rng.normal(size=(patients, 18))[of] + rng.normal(size=(count, 18)), of


def test_scattered_captures_and_a_smaller_cluster_are_not_the_microscopes() -> None:
    own, of = microscope()
    rng = np.random.default_rng(1)
    scattered = (8 * rng.normal(size=(15, 18)), rng.integers(0, 8, 15))
    others = (microscope(30, 8, at=9.0)[0], rng.integers(0, 8, 30))
    found = majority(looked((own, of, SMEAR), (*scattered, SMEAR), (*others, SMEAR)), WIDTHS)
    assert found.own[:120].mean() > 0.9
    assert not found.own[120:].any()
    assert found.apart == (~found.own).sum()


def test_photographs_empty_fields_and_blurred_ones_are_left_out_though_they_lie_among_the_others() -> None:
    own, of = microscope()
    near, theirs = microscope(60)
    empty, blurred = {**SMEAR, "cells": 0.01}, {**SMEAR, "sharpness": 20.0}
    parts = [
        (near[20 * n : 20 * n + 20], theirs[:20], quality) for n, quality in enumerate((PHOTOGRAPH, empty, blurred))
    ]
    found = majority(looked((own, of, SMEAR), *parts), WIDTHS)
    assert not found.own[120:].any()
    assert found.unlike_smears == 20
    assert 30 <= found.poor <= 40


def test_an_archive_of_photographs_is_refused() -> None:
    with pytest.raises(DataError, match=r"only 9% of the captures look like a blood smear"):
        majority(looked((*microscope(), PHOTOGRAPH), (*microscope(12), SMEAR)), WIDTHS)


def test_two_microscopes_of_one_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"belong together, fewer than 60%: it is unclear which are the microscope's"):
        majority(looked((*microscope(), SMEAR), (*microscope(at=9.0), SMEAR)), WIDTHS)


@pytest.mark.parametrize(("count", "patients"), [(99, 8), (120, 4)])
def test_too_few_captures_or_patients_are_refused(count: int, patients: int) -> None:
    with pytest.raises(DataError, match=rf"{count} readable captures of {patients} patients; .* at least 100 of 5"):
        majority(looked((*microscope(count, patients), SMEAR)), WIDTHS)


def test_no_patient_dominates_the_reference() -> None:
    captures = [capture(0, number) for number in range(1000)]
    captures += [capture(patient, number) for patient in range(1, 10) for number in range(20)]
    by_patient = [one.patient for one in chosen(captures)]
    assert by_patient.count(b"p00") == DOMINANCE * 20
    assert by_patient.count(b"p05") == 20
    few = chosen(captures, most=50)
    assert len(few) <= 50
    assert len({one.patient for one in few}) == 10


def test_an_adapted_reference_knows_what_either_knew_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(300, 18)).astype(np.float32), (9 + rng.normal(size=(300, 18))).astype(np.float32)
    far = (-9 + rng.normal(size=(100, 18))).astype(np.float32)
    groups = np.zeros(200, np.int64)
    blocks = write_embeddings(tmp_path, WIDTHS, first[:200], groups, first[200:])
    known = open_reference((tmp_path / "reference.npz").read_bytes(), blocks)
    manifest = colour_bundle(tmp_path / "b").manifest
    quality = {name: {"0.001": 1.0, "0.5": 2.0, "0.999": 3.0} for name in MEASURES}
    reference = {"novelty": {"blocks": blocks, "validation": {}}, "quality": quality}
    manifest = manifest.model_copy(update={"reference": reference})
    measures = {name: rng.uniform(2, 9, 200) for name in MEASURES}
    patients = np.arange(200) % 10
    arguments = (second[:200], rng.uniform(size=200), measures, patients)
    taken = adapt_reference.take(tmp_path, manifest, known, *arguments)
    assert (known.of(second) > 1).all()
    for captures in (first[200:], second[200:]):
        assert (taken.known.of(captures) > 1).mean() < 0.1
    assert (taken.known.of(far) > 1).all()
    (other,) = taken.manifest["novelty"]["others"]
    assert (tmp_path / other["file"]).is_file()
    assert taken.manifest["novelty"]["blocks"] == blocks
    brightness = taken.manifest["quality"]["brightness"]
    assert brightness["0.001"] == 1.0
    assert brightness["0.999"] > 8
    alone = adapt_reference.take(tmp_path, manifest, None, *arguments)
    assert (alone.known.of(first) > 1).all()
    assert "others" not in alone.manifest["novelty"]


def test_half_of_the_drawn_captures_are_random_and_half_near_the_border_over_looks_and_patients(tmp_path: Path) -> None:
    manifest = colour_bundle(tmp_path / "b").manifest
    rng = np.random.default_rng(3)
    probabilities = np.tile([0.97, 0.01, 0.01, 0.01], (200, 1))
    unsure = np.arange(0, 200, 4)
    probabilities[unsure] = [0.45, 0.55 - 2e-3, 1e-3, 1e-3]
    counts = np.ones(200, bool)
    counts[:20] = False
    patients = np.arange(200) % 10
    drawn = adapt_labels.draw(48, counts, probabilities, rng.normal(size=(200, 4)), patients, manifest)
    assert (len(drawn.random), len(drawn.border)) == (24, 24)
    assert not set(drawn.random) & set(drawn.border)
    assert min(drawn.random + drawn.border) >= 20
    assert len({int(patients[row]) for row in drawn.border}) == 10
    assert np.isin(drawn.border, unsure).mean() > np.isin(drawn.random, unsure).mean()
    assert drawn == adapt_labels.draw(48, counts, probabilities, np.random.default_rng(3).normal(size=(200, 4)),
                                      patients, manifest)  # fmt: skip


def filled(tmp_path: Path, **changes: str) -> Path:
    """A file of labels for 24 random captures and 4 near the border; `changes` replace what line 2 says."""
    rows = [{"path": f"p00/{n:03d}.jpg", "patient": "p00", "why": RANDOM if n < 24 else BORDER, "label": "Pro"}
            for n in range(28)]  # fmt: skip
    rows[0] |= changes
    text = io.StringIO()
    writer = csv.DictWriter(text, adapt_labels.COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "labels.csv").write_text(text.getvalue())
    return tmp_path / "labels.csv"


ARCHIVE = [capture(0, number) for number in range(40)]
LABELS = ["Benign", "Early", "Pre", "Pro"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "p09/000.jpg"}, "line 2: p09/000.jpg is not in the archive"),
        ({"path": "p00/001.jpg", "label": "Pre"}, "lines 2 and 3: both list p00/001.jpg and say different things"),
        ({"label": "Late"}, "line 2: unknown label 'Late'; the bundle's labels are Benign, Early, Pre, Pro"),
        ({"why": "I liked it"}, "line 2: why is 'I liked it'"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_labels(filled(tmp_path, **changes), ARCHIVE, LABELS)


def test_labels_are_read_as_a_spreadsheet_saves_them(tmp_path: Path) -> None:
    file = filled(tmp_path)
    plain = read_labels(file, ARCHIVE, LABELS)
    rows = file.read_text().replace(",", ";").replace("p00/003", ".\\p00\\003").replace("Pro", " pro ").splitlines()
    file.write_bytes("\r\n".join(["sep=;", *rows, ";;;", rows[1]]).replace("random", "Random").encode("utf-16"))
    read = read_labels(file, ARCHIVE, LABELS)
    assert read.captures == plain.captures
    assert read.targets.tolist() == plain.targets.tolist()
    assert read.random.tolist() == plain.random.tolist()


def test_a_path_may_be_in_another_unicode_form_than_the_archive(tmp_path: Path) -> None:
    forms = ("u\u0308/1.jpg", "\u00fc/2.jpg", "e\u0301/3.jpg", "\u00e9/3.jpg")
    archive = [*ARCHIVE, *(FoundCapture(path.encode(), b"p", 1, 1) for path in forms)]
    file = filled(tmp_path)
    head = file.read_text()
    for written, on_disk in (("\u00fc/1.jpg", 0), ("u\u0308/2.jpg", 1), ("e\u0301/3.jpg", 2), ("\u00e9/3.jpg", 3)):
        file.write_text(f"{head}{written},p,random,Pro\n", encoding="utf-8")
        assert read_labels(file, archive, LABELS).captures[-1] == archive[len(ARCHIVE) + on_disk]


def test_too_few_labels_give_no_figure(tmp_path: Path) -> None:
    file = filled(tmp_path)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*(line.replace("Pro", "") for line in lines[:6]), *lines[6:]]))
    with pytest.raises(DataError, match="19 of the captures drawn at random are labelled"):
        read_labels(file, ARCHIVE, LABELS)


def test_accuracy_is_told_of_the_random_and_of_the_border_captures_apart(tmp_path: Path) -> None:
    labels = read_labels(filled(tmp_path), ARCHIVE, LABELS)
    labels = replace(labels, captures=[capture(row, 0) for row in range(28)])
    probabilities = np.tile([0.1, 0.1, 0.1, 0.7], (28, 1))
    probabilities[[0, 1, 24, 25, 26]] = [0.7, 0.1, 0.1, 0.1]
    counts = np.arange(28) != 0
    found = adapt_labels.figures(labels, probabilities, counts, benign=0)
    assert (found[RANDOM]["accuracy"]["hits"], found[RANDOM]["accuracy"]["of"]) == (22, 24)
    assert found[RANDOM]["counting"]["accuracy"]["of"] == 23
    low, high = found[RANDOM]["accuracy"]["interval"]
    assert low < 22 / 24 < high
    assert (found[BORDER]["accuracy"]["hits"], found[BORDER]["accuracy"]["of"]) == (1, 4)


def test_ranges_are_joined_and_a_measure_that_one_release_alone_knows_is_left_out():
    first = {"cells": {"0.001": 0.2, "0.5": 0.4, "0.999": 0.6}, "nucleated": {"0.001": 0.0, "0.5": 0.1, "0.999": 0.3}}
    second = {"cells": {"0.001": 0.3, "0.5": 0.3, "0.999": 0.8}, "nuclei": {"0.001": 0.0, "0.5": 0.1, "0.999": 0.3}}
    assert adapt_reference.envelope(first, second) == {"cells": {"0.001": 0.2, "0.5": 0.3, "0.999": 0.8}}
