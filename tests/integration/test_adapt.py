"""`screen adapt` with the demo bundle on drawings of a second laboratory, photographs among them, and of a third."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_sample_images

pytest.importorskip("torch")

from contract.archive import walk_archive
from contract.bundle import MODEL, Bundle
from contract.errors import BundleError, DataError, UsageError
from contract.novelty import read_novelty
from contract.proof import FILE as PROOF
from contract.proof import open_hidden
from tests.support.bundles import colour_bundle
from tests.support.commands import REPOSITORY
from tests.support.laboratories import draw_laboratory
from trainer.adapt_archive import pixels_of
from trainer.commands.adapt import adapt
from trainer.graph import GraphRunner

PARENT = REPOSITORY / "bundles" / "demo.bundle"
PATIENTS, CAPTURES, PHOTOGRAPHS = 20, 5, 25


def photographs(count: int, seed: int) -> list[Image.Image]:
    """Parts of the two photographs that scikit-learn brings along."""
    rng = np.random.default_rng(seed)
    images = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    parts = []
    for number in range(count):
        image = images[number % 2]
        side = rng.uniform(0.3, 0.8) * image.height
        x, y = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
        parts.append(image.resize((256, 256), box=(x, y, x + side, y + side)))
    return parts


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """archive: laboratory B with photographs among its captures; b, c, a: other patients of each; photographs."""
    folder = tmp_path_factory.mktemp("adapt")
    draw_laboratory(folder / "archive", "B", range(1, PATIENTS + 1), CAPTURES)
    for number, image in enumerate(photographs(PHOTOGRAPHS, 0)):
        image.save(folder / "archive" / f"patient-{1 + number % PATIENTS:04d}" / f"p{number:02d}.png")
    (folder / "archive" / "patient-0001" / "torn.jpg").write_bytes(b"\xff\xd8\xff no picture")
    for laboratory in "ABC":
        draw_laboratory(folder / laboratory.lower(), laboratory, range(101, 107), 4)
    (folder / "photographs" / "nobody").mkdir(parents=True)
    for number, image in enumerate(photographs(12, 1)):
        image.save(folder / "photographs" / "nobody" / f"{number}.png")
    return folder


def called(*arguments: object) -> Result:
    return CliRunner().invoke(adapt, [*map(str, arguments)], catch_exceptions=True)


@pytest.fixture(scope="module")
def adapted(work: Path) -> Bundle:
    result = called(PARENT, work / "archive", "--out", work / "new.bundle")
    assert result.exit_code == 0, result.output
    assert "left out patient-0001/torn.jpg (corrupt" in result.stderr
    bundle = Bundle.open(work / "new.bundle")
    assert result.stdout.split() == [bundle.digest]
    return bundle


def novel(bundle: Bundle, archive: Path) -> np.ndarray:
    """Which captures of an archive are novel to a bundle."""
    known, found = read_novelty(bundle), walk_archive(archive)
    assert known is not None
    pixels = np.concatenate(list(pixels_of(found.root, list(found.captures), bundle.manifest.image)))
    return known.of(GraphRunner(bundle.path / MODEL, bundle.manifest.outputs).predict(pixels).embedding) > 1


def test_other_patients_of_the_second_laboratory_are_known_afterwards(work: Path, adapted: Bundle) -> None:
    assert novel(Bundle.open(PARENT), work / "b").mean() > 0.9
    assert novel(adapted, work / "b").mean() < 0.1


def test_photographs_and_a_third_laboratory_stay_novel(work: Path, adapted: Bundle) -> None:
    assert novel(adapted, work / "photographs").all()
    assert novel(adapted, work / "c").mean() > 0.9


def test_what_the_parent_knew_is_still_known(work: Path, adapted: Bundle) -> None:
    assert novel(adapted, work / "a").mean() <= novel(Bundle.open(PARENT), work / "a").mean()
    assert (adapted.path / MODEL).read_bytes() == (PARENT / MODEL).read_bytes()


def test_the_bundle_names_its_parent_and_says_what_it_cannot_know(adapted: Bundle) -> None:
    parent, manifest = Bundle.open(PARENT), adapted.manifest
    assert manifest.provenance["parent"] == {"name": "demo", "digest": parent.digest}
    assert manifest.notice is not None
    assert manifest.notice.startswith(str(parent.manifest.notice))
    assert manifest.notice.endswith("how accurate it is there is unknown.")
    made = manifest.provenance["adaptation"]
    assert made["archive"] == {"captures": PATIENTS * CAPTURES + PHOTOGRAPHS + 1, "patients": PATIENTS}
    left_out = made["left_out"]
    assert left_out["unreadable"] == 1
    assert left_out["unlike_smears"] + left_out["apart_from_the_majority"] >= PHOTOGRAPHS
    assert made["used"]["captures"] >= 0.8 * PATIENTS * CAPTURES
    assert made["share_that_counts"]["adapted"] > 0.6 > 0.1 > made["share_that_counts"]["parent"]
    assert "patient-0001" not in (adapted.path / "bundle.json").read_text()
    assert parent.digest in (adapted.path / "report.html").read_text()


def test_labels_give_a_figure_with_its_interval(work: Path, adapted: Bundle, tmp_path: Path) -> None:
    drawn = adapted.path.with_name("new.bundle.to-label.csv")
    with drawn.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 48
    assert not [row for row in rows if row["path"].endswith(".png")]
    with (tmp_path / "labelled.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "label": "Benign"} for row in rows)
    result = called(
        PARENT, work / "archive", "--labels", tmp_path / "labelled.csv", "--out", tmp_path / "labelled.bundle"
    )
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "labelled.bundle").manifest
    figure = manifest.provenance["adaptation"]["accuracy"]["adapted"]["random"]["accuracy"]
    low, high = figure["interval"]
    assert figure["of"] == 24
    assert low <= figure["value"] <= high
    assert f"{figure['hits']} of 24" in str(manifest.notice)
    assert "Near the border, which gives a pessimistic figure" in result.stderr


def test_labels_of_captures_that_are_not_in_the_archive_are_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,patient,why,label\nelsewhere/1.jpg,elsewhere,random,Pro\n")
    result = called(PARENT, work / "archive", "--labels", tmp_path / "l.csv", "--out", tmp_path / "new")
    assert isinstance(result.exception, DataError)
    assert "elsewhere/1.jpg is not in the archive" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_an_archive_of_ten_captures_is_refused(work: Path, tmp_path: Path) -> None:
    draw_laboratory(tmp_path / "few", "B", range(1, 6), 2)
    result = called(PARENT, tmp_path / "few", "--out", tmp_path / "new")
    assert isinstance(result.exception, DataError)
    assert "10 readable captures of 5 patients; a reference needs at least 100" in str(result.exception)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["few"]


def test_an_archive_without_a_readable_capture_is_refused(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        (tmp_path / "archive" / patient).mkdir(parents=True)
        (tmp_path / "archive" / patient / "1.jpg").write_bytes(b"no picture")
    result = called(PARENT, tmp_path / "archive", "--out", tmp_path / "new")
    assert isinstance(result.exception, DataError)
    assert "none of its 2 captures can be read" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_taken_and_bundles_that_cannot_be_adapted_are_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    result = called(PARENT, work / "archive", "--out", tmp_path / "new")
    assert isinstance(result.exception, UsageError)
    assert "is there already" in str(result.exception)
    plain = colour_bundle(tmp_path / "plain.bundle")
    result = called(plain.path, work / "archive", "--out", tmp_path / "other")
    assert isinstance(result.exception, BundleError)
    assert "no reference for novelty and quality" in str(result.exception)


def test_what_the_parent_knows_already_is_not_adapted_to(tmp_path: Path) -> None:
    draw_laboratory(tmp_path / "own", "A", range(1, 26), 5)
    result = called(PARENT, tmp_path / "own", "--out", tmp_path / "new")
    assert isinstance(result.exception, UsageError)
    assert "count by demo already" in str(result.exception)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["own"]


def test_engines_must_reproduce_what_the_new_reference_decides(adapted: Bundle) -> None:
    hidden = open_hidden(adapted.read(PROOF), adapted.manifest.image.size)
    runner = GraphRunner(adapted.path / MODEL, adapted.manifest.outputs)
    known = read_novelty(adapted)
    assert known is not None
    assert np.allclose(known.of(runner.predict(hidden.captures).embedding), hidden.expected.novelty, atol=1e-3)
    assert (hidden.expected.novelty <= 1).mean() > 0.8
