"""No leak between splits, whatever the rule: properties over random data, without a single image."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")
pytest.importorskip("imagehash")

from contract.errors import DataError
from trainer import splits
from trainer.config import DataTable
from trainer.data import LabelledCapture, LabelledData
from trainer.splits import Fold, Split, assign, natural
from trainer.traits import Traits, clusters, near_duplicates

LABELS = ("Benign", "Early", "Pre")


def some_data(seed: int, patients: int, captures: int, duplicates: int, known: bool) -> tuple[LabelledData, Traits]:
    """`patients` of each label with `captures` each; some captures get the hash of another but for up to three bits."""
    rng = np.random.default_rng(seed)
    listed = [
        LabelledCapture(f"{label}/p{p}-{n}.png", label, f"{label}{p}" if known else f"{label}/p{p}-{n}.png")
        for label in LABELS
        for p in range(patients)
        for n in range(captures)
    ]
    count = len(listed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    sha256 = [f"{i:064x}" for i in range(count)]
    for _ in range(duplicates):
        one, other = rng.integers(0, count, 2)
        flips = rng.integers(0, 64, rng.integers(0, 4), dtype=np.uint64)
        hashes[other] = hashes[one]
        for bit in flips:
            hashes[other] ^= np.uint64(1) << bit
    slide = np.repeat(np.arange(count // captures), captures)
    look = rng.normal(0, 1, (count // captures, 3))[slide] * 20 + 150
    traits = Traits(
        colour=rng.uniform(50, 200, (count, 6)), background=look, stained=look * 0.7 + rng.normal(0, 1, (count, 3)),
        sharpness=rng.uniform(10, 200, count), corners=rng.uniform(0, 1, (count, 288)), bars=[None] * count,
        hashes=hashes,
    )  # fmt: skip
    return LabelledData(Path("data"), LABELS, tuple(listed), known, tuple(sha256), "digest"), traits


def table(rule: str, **more: object) -> DataTable:
    return DataTable.model_validate({"labels": list(LABELS), "split": rule, "blocks": 8, "appearances": 8, **more})


def assert_no_leak(split: Split, traits: Traits, bits: int) -> None:
    held = split.names[np.isin(split.names, ["train", "validation", "test"])]
    groups = split.groups[np.isin(split.names, ["train", "validation", "test"])]
    assert len(set(zip(groups.tolist(), held.tolist(), strict=True))) == len(set(groups.tolist()))
    rank = {"train": 0, "validation": 1, "test": 2}
    for row in range(len(traits.hashes)):  # pair by pair, by counting bits one at a time
        for other in range(row):
            apart = bin(int(traits.hashes[row]) ^ int(traits.hashes[other])).count("1")
            names = {str(split.names[row]), str(split.names[other])}
            if apart <= bits and names <= set(rank):
                assert len(names) == 1, names
    assert split.leaks == 0


@settings(max_examples=25, deadline=None)
@given(
    rule=st.sampled_from(["grouped", "blocked", "appearance"]),
    seed=st.integers(0, 10_000),
    patients=st.integers(8, 12),
    captures=st.integers(2, 5),
    duplicates=st.integers(0, 12),
    known=st.booleans(),
)
def test_no_group_and_no_near_duplicate_lies_on_two_sides(rule, seed, patients, captures, duplicates, known):
    data, traits = some_data(seed, patients, captures, duplicates, known)
    unreadable = [3]
    try:
        split = assign(data, traits, unreadable, table(rule, test=0.2, validation=0.2), seed)
    except DataError:  # duplicates have chained a whole label together: refused, not leaked
        reject()
    assert split.names[3] == "unreadable"
    assert_no_leak(split, traits, 4)
    for name in ("train", "validation", "test"):
        assert {data.captures[i].label for i in split.rows(name)} == set(LABELS)
    again = assign(data, traits, unreadable, table(rule, test=0.2, validation=0.2), seed)
    assert np.array_equal(again.names, split.names)


@pytest.mark.parametrize("rule", ["grouped", "blocked", "appearance", "random"])
def test_the_tests_of_all_folds_are_disjoint_and_cover_everything(rule):
    data, traits = some_data(1, 9, 4, 0, True)
    folds = [assign(data, traits, [], table(rule), 5, fold=Fold(number, 4)) for number in range(1, 5)]
    tests = [set(split.rows("test").tolist()) for split in folds]
    assert sum(map(len, tests)) == len(set.union(*tests)) == len(data.captures)
    assert all(len(split.rows("validation")) > 0 for split in folds)
    assert "test fold 2 of 4" in folds[1].rule


def test_a_random_split_is_allowed_and_its_leaks_are_counted():
    data, traits = some_data(2, 10, 4, 0, True)
    traits.hashes[1::2] = traits.hashes[0::2]  # every capture has a twin
    split = assign(data, traits, [], table("random", test=0.2, validation=0.15), 0)
    twins = split.names.reshape(-1, 2)
    expected = sum({"test", "train"} == set(pair) for pair in twins.tolist())
    assert split.leaks == expected > 0
    assert split.kind == "random"


def test_shares_are_about_those_asked_for():
    data, traits = some_data(3, 40, 3, 0, True)
    split = assign(data, traits, [], table("grouped", test=0.2, validation=0.16), 0)
    assert len(split.rows("test")) / 360 == pytest.approx(0.2, abs=0.03)
    assert len(split.rows("validation")) / 360 == pytest.approx(0.16, abs=0.03)


def test_blocks_are_runs_of_file_numbers():
    data, traits = some_data(4, 12, 10, 0, False)
    split = assign(data, traits, [], table("blocked", blocks=6), 0)
    for label in LABELS:
        rows = sorted((i for i, one in enumerate(data.captures) if one.label == label),
                      key=lambda i: natural(data.captures[i].path))  # fmt: skip
        names = split.names[rows].tolist()
        assert sum(a != b for a, b in pairwise(names)) <= 5  # six runs have five borders


def test_natural_order():
    assert sorted(["a10.png", "a9.png", "a1b2", "b1"], key=natural) == ["a1b2", "a9.png", "a10.png", "b1"]


@pytest.mark.parametrize("named", [True, False])
def test_a_split_is_given_back_even_with_exact_duplicates(tmp_path, named):
    data, traits = some_data(5, 8, 4, 0, True)
    sha256 = list(data.sha256)
    sha256[1] = sha256[0]  # the same bytes twice
    data = LabelledData(data.root, data.labels, data.captures, True, tuple(sha256), "d")
    split = assign(data, traits, [], table("random"), 3)
    file = tmp_path / "split.csv"
    file.write_text(splits.to_csv(data, split, named=named))
    assert ("Benign0" in file.read_text()) == named
    again = assign(data, traits, [], table("grouped"), 99, given=file)
    assert again.kind == "given"
    assert np.array_equal(again.names, split.names)
    assert again.leaks == split.leaks


@pytest.mark.parametrize("named", [True, False])
def test_a_split_is_given_back_by_a_spreadsheet(tmp_path, named):
    data, traits = some_data(5, 8, 4, 0, True)
    split = assign(data, traits, [], table("random"), 3)
    text = splits.to_csv(data, split, named=named).replace(",", ";").replace(";train;", ";Train;").replace("\n", "\r\n")
    if named:
        text = text.replace(data.captures[0].path, f"./{data.captures[0].path}")
    file = tmp_path / "split.csv"
    file.write_bytes(f"sep=;\r\n{text};;;\r\n".encode("utf-16"))
    assert np.array_equal(assign(data, traits, [], table("grouped"), 99, given=file).names, split.names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("split,", "part,", 1), "column split is missing"),
        (lambda text: text.replace(",train,", ",training,", 1), "unknown split 'training'"),
        (lambda text: text.rsplit("\n", 2)[0] + "\n", "it was made of other data"),
        (lambda text: text.replace(",validation,", ",train,"), "the given split has no Benign in validation"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, change, message):
    data, traits = some_data(6, 8, 4, 0, True)
    file = tmp_path / "split.csv"
    file.write_text(change(splits.to_csv(data, assign(data, traits, [], table("grouped"), 0), named=True)))
    with pytest.raises(DataError, match=message):
        assign(data, traits, [], table("grouped"), 0, given=file)


def test_too_few_groups_for_so_many_folds_are_named():
    data, traits = some_data(7, 3, 4, 0, True)
    with pytest.raises(DataError, match=r"label Benign has 3 groups to hold out \(grouped\), fewer than 5 folds"):
        assign(data, traits, [], table("grouped"), 0, fold=Fold(1, 5))


def test_near_duplicates_and_their_clusters_worked_by_hand():
    hashes = np.array([0b0, 0b1, 0b11111, 0b1111111, 2**63], np.uint64)
    assert near_duplicates(hashes, 1).tolist() == [[0, 1], [0, 4]]
    assert near_duplicates(hashes, 2).tolist() == [[0, 1], [0, 4], [1, 4], [2, 3]]
    assert clusters(5, near_duplicates(hashes, 2)).tolist() == [0, 0, 1, 1, 0]
    assert clusters(3, np.zeros((0, 2), np.int64)).tolist() == [0, 1, 2]
