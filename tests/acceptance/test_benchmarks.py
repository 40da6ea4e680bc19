"""The benchmarks run and write what docs/benchmarks.md is made from. No test here looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import age, document
from tests.support.commands import REPOSITORY


def run(name: str, folder: Path, *more: str) -> dict[str, Any]:
    file = folder / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--work", str(folder / "work"), "--json", str(file), *more],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(file.read_text())
    assert {"benchmark", "machine", "versions", "commit"} <= set(record)
    assert document.SECTIONS[name](record).startswith("## ")
    return record


def test_scale_counts_every_capture_on_both_databases(tmp_path: Path) -> None:
    record = run("scale", tmp_path, "--sizes", "300,600")
    assert [(row["database"], row["captures"]) for row in record["rows"]] == [
        ("sqlite", 300), ("postgresql", 300), ("sqlite", 600), ("postgresql", 600),
    ]  # fmt: skip
    for row in record["rows"]:
        assert all(
            row[name] > 0 for name in ("submit_per_s", "worker_per_s", "database_ms", "submit_mib", "worker_mib")
        )


def test_age_says_what_each_part_of_a_night_costs(tmp_path: Path) -> None:
    record = run("age", tmp_path, "--nights", "3", "--patients", "256")
    assert [row["database"] for row in record["rows"]] == ["sqlite", "postgresql"]
    for row in record["rows"]:
        nights = row["nights"]
        assert (nights["files"], nights["captures"]) == (30, 60), "10, 20 and 30 rows"
        assert {"history", "copies", "supersede"} <= set(nights["parts"]["submit"]) | set(nights["parts"]["finish"])
        assert {name for parts in nights["parts"].values() for name in parts} == {*age.PARTS, "other"}
        assert row["steady"]["captures"] == 3 * 10 * age.KEPT
        assert all(row["patients"]["ms_per_case"][name]["last"] > 0 for name in ("first screening", "screened again"))


def test_workers_runs_several_of_them(tmp_path: Path) -> None:
    record = run(
        "workers", tmp_path, "--counts", "1,2", "--seconds", "2", "--milliseconds", "5", "--database", "sqlite"
    )
    assert [row["workers"] for row in record["rows"]] == [1, 2]


def test_decode_says_what_it_changes(tmp_path: Path) -> None:
    record = run("decode", tmp_path, "--captures", "4", "--bundle", str(REPOSITORY / "bundles" / "demo.bundle"))
    for ways in record["formats"].values():
        first = next(iter(ways.values()))
        assert first["difference"] == 0
    assert record["probabilities"]["ways"]["ours: bilinear, at least 2 S"]["same_label"] > 0


def test_the_demo_bundle_knows_drawings_and_nothing_else(tmp_path: Path) -> None:
    sets = run("novelty", tmp_path, "--captures", "160")["sets"]
    assert sets["drawings of other patients"]["novel"] <= 0.05, "20 patients; of 160 it is the 2 % that are wanted"
    assert sets["photographs, whole and in parts"]["novel"] >= 0.95


@pytest.mark.parametrize("name", ["throughput", "engines"])
def test_those_that_take_long_say_what_they_do(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--json" in done.stdout
