"""Opening a hostile bundle: a sentence, and little time. Only what a look at its files can tell; engines are
opened on the others in tests/faults.
"""

import re
from pathlib import Path

import pytest

from contract.bundle import SPLIT, Bundle
from contract.bundle_warnings import TRAINING_SPLITS
from contract.errors import BundleError
from tests.support.hostile_bundles import HOSTILE

LONGEST = 2_000

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("name", [name for name, one in HOSTILE.items() if one.at == "opening"])
def test_it_is_refused_with_a_sentence_and_in_a_short_time(bundle: Bundle, tmp_path: Path, name: str) -> None:
    folder = HOSTILE[name].make(bundle.path, tmp_path / "hostile.bundle")
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    said = str(caught.value)
    assert re.search(HOSTILE[name].says, said), said
    assert said.isprintable()
    assert len(said) < LONGEST


@pytest.mark.parametrize("name", [name for name, one in HOSTILE.items() if one.at == "submit"])
def test_a_split_that_the_database_would_not_take_is_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    opened = Bundle.open(HOSTILE[name].make(bundle.path, tmp_path / "hostile.bundle"))
    with pytest.raises(BundleError, match=rf"{SPLIT} cannot be read"):
        opened.captures_of(TRAINING_SPLITS)


@pytest.mark.parametrize("name", [name for name, one in HOSTILE.items() if one.at == "engine"])
def test_what_only_an_engine_finds_out_passes_a_look_at_its_files(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """So each of them is really tried on an engine."""
    assert Bundle.open(HOSTILE[name].make(bundle.path, tmp_path / "hostile.bundle")).contents


def test_there_are_as_many_as_promised() -> None:
    assert len(HOSTILE) >= 40
