"""`screen report`: results of a run as table, JSON, CSV or one self-contained HTML file."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.text import Text
from sqlalchemy import Engine

from contract.errors import ExitCode
from contract.settings import get_settings
from contract.states import Verdict
from db import schema
from db.drift import drift
from db.engine import open_engine
from db.plausibility import Implausibility, implausibility
from db.queries import (
    Progress,
    case_results,
    ended_badly,
    identity_conflicts,
    progress,
    reported_cases,
    run_details,
    run_summaries,
)
from producer.alarm import print_alarm, say_alarm
from producer.drifting import drift_warning
from producer.fhir import fhir_bundle
from producer.html_report import render_html
from producer.output import csv_out, json_out, output_options, plain, say, stdout, table
from producer.review_output import FOR_REVIEW, SHOWN_VERDICT
from producer.truth import is_right, read_truth, truth_option
from producer.watching import accounting_line

COLUMNS = (
    "case_id", "patient", "verdict", "subtype", "subtype_margin", "score", "score_low", "score_high", "priority",
    "submitted", "screened", "rejected", "quarantined", "excluded", "novel", "reasons", "case_rule",
    "aggregated_at", "identity_conflict",
)  # fmt: skip


@click.command()
@click.argument("run", type=int)
@output_options
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a self-contained HTML file.")
@click.option("--fhir", type=click.Path(path_type=Path, dir_okay=False), help="Write a FHIR R4 Bundle, as JSON.")
@truth_option
def report(run: int, output: str, html: Path | None, fhir: Path | None, truth: Path | None) -> ExitCode:
    """Results of RUN by patient, the most urgent first, and every capture that ended badly with its reason.

    Exits 1 where captures were rejected or quarantined, or most captures of most patients do not count; what to do
    then is said before everything else.
    """
    database = open_engine(get_settings().database_url)
    schema.check(database)
    labels = read_truth(truth) if truth else None
    implausible = implausibility(database, run)
    to_files = html is not None or fhir is not None
    if output == "table" and not to_files:
        return print_report(database, run, implausible, labels)
    if output == "csv" or to_files:
        say_alarm(implausible)
    if html is not None:
        write_html(database, run, html, implausible, labels)
        say(f"report: {html}")
    if fhir is not None:
        _write_fhir(database, run, fhir, implausible)
        say(f"FHIR: {fhir}")
    if to_files:
        return exit_code(progress(database, run), implausible)
    summary = run_summaries(database, run)[0]
    cases = case_results(database, run)
    details = run_details(database, run)
    if output == "csv":
        if details["manifest"]["notice"]:
            say(details["manifest"]["notice"], "bold yellow")
        csv_out(cases, COLUMNS)
    else:
        json_out(
            {
                "implausible": implausible and implausible.record(),
                "run": summary,
                "notice": details["manifest"]["notice"],
                "for_review": FOR_REVIEW,
                "labels": details["manifest"]["labels"],
                "benign_label": details["manifest"]["benign_label"],
                "engines": details["engines"],
                "skipped": details["skipped"],
                "cases": cases,
                "identity_conflicts": identity_conflicts(database, run),
                "ended_badly": ended_badly(database, run),
                "drift": [asdict(one) for one in drift(database, run)],
            }
        )
    return exit_code(progress(database, run), implausible)


def _write_fhir(database: Engine, run_id: int, path: Path, implausible: Implausibility | None) -> None:
    summary = run_summaries(database, run_id)[0]
    cases = reported_cases(database, run_id)
    if len(cases) < summary["cases"]:
        say(f"{summary['cases'] - len(cases)} cases are not finished and left out", "yellow")
    manifest = run_details(database, run_id)["manifest"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fhir_bundle(summary, cases, manifest, datetime.now(UTC), implausible), encoding="utf-8")


def exit_code(now: Progress, implausible: Implausibility | None) -> ExitCode:
    """SOME_ENDED_BADLY where captures were rejected, quarantined or are unaccounted for, or the run is implausible."""
    bad = now.rejected or now.quarantined or (now.finished and not now.accounted_for) or implausible
    return ExitCode.SOME_ENDED_BADLY if bad else ExitCode.OK


def print_report(
    database: Engine, run_id: int, implausible: Implausibility | None, truth: dict[str, str] | None = None
) -> ExitCode:
    """The report as a table on stdout, below why the run cannot be believed."""
    print_alarm(implausible)
    summary = run_summaries(database, run_id)[0]
    details = run_details(database, run_id)
    manifest = details["manifest"]
    if manifest["notice"]:
        stdout.print(plain(manifest["notice"]), style="bold yellow")
    stdout.print(_results_table(run_id, case_results(database, run_id), truth, manifest["benign_label"]))
    conflicts = identity_conflicts(database, run_id)
    if conflicts:
        stdout.print(_conflicts_table(conflicts))
    bad = ended_badly(database, run_id)
    if bad:
        shown = table("Captures that ended badly", ("path", "state", "code", "reason"), fold=("path", "reason"))
        for one in bad:
            shown.add_row(plain(one["path"]), one["state"], one["reject_code"] or "", plain(one["reason"]))
        stdout.print(shown)
    if warning := drift_warning(drift(database, run_id)):
        stdout.print(plain(warning), style="yellow")
    now = progress(database, run_id)
    stdout.print(accounting_line(now), highlight=False)
    engines = ", ".join(details["engines"]) or "none yet"
    stdout.print(
        f"bundle {summary['bundle_name']} {summary['bundle_digest'][:12]}, engine {engines}, "
        f"slide-screen {summary['software_version']}",
        highlight=False,
        markup=False,
    )
    stdout.print(FOR_REVIEW)
    return exit_code(now, implausible)


def _results_table(run_id: int, cases: list[dict[str, Any]], truth: dict[str, str] | None, benign_label: str) -> Any:
    columns = ["patient", "verdict", "subtype", "score", "95 %", "screened"]
    if truth is not None:
        columns += ["truth", "right?"]
    shown = table(f"Run {run_id}", columns, right=("score", "95 %"), fold=("patient", "screened"))
    for case in cases:
        cells = [
            plain(case["patient"]),
            SHOWN_VERDICT[Verdict(case["verdict"])] if case["verdict"] else "pending",
            plain(case["subtype"]),
            "" if case["score"] is None else f"{case['score']:.2f}",
            "" if case["score"] is None else f"{case['score_low']:.2f}-{case['score_high']:.2f}",
            _captures(case),
        ]
        if truth is not None:
            label = truth.get(case["patient"])
            right = label is not None and is_right(case, label, benign_label)
            shown_right = Text() if label is None else Text("yes") if right else Text("no", "bold red")
            cells += [plain(label), shown_right]
        shown.add_row(*cells)
    return shown


def _conflicts_table(conflicts: list[dict[str, Any]]) -> Any:
    shown = table(
        "The same capture under two patients: they may have been mixed up",
        ("patient", "capture", "is also", "of patient"),
        fold=("patient", "capture", "is also", "of patient"),
    )
    shown.title_style = "bold red"
    for one in conflicts:
        shown.add_row(*(plain(one[name]) for name in ("patient", "path", "other_path", "other_patient")))
    return shown


def _captures(case: dict[str, Any]) -> str:
    if case["verdict"] is None:
        return f"? of {case['submitted']}"
    parts = [f"{case['screened']} of {case['submitted']}"]
    parts += [f"[red]{case[state]} {state}[/]" for state in ("rejected", "quarantined") if case[state]]
    parts += [f"[yellow]{case['excluded']} excluded[/]"] if case["excluded"] else []
    return ", ".join(parts)


def write_html(
    database: Engine,
    run_id: int,
    path: Path,
    implausible: Implausibility | None,
    truth: dict[str, str] | None = None,
) -> None:
    """Write the report as one HTML file that needs nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_html(database, run_id, implausible, truth), encoding="utf-8")
