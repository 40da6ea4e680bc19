"""`make demo`: a whole screening from the first step, with the commands of a user, and a check of its results."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from contract.files import private_folder
from producer.output import say

PATIENTS, CAPTURES, SEED = 12, 24, 7
"""The demo bundle was trained on captures of another seed, so it has seen none of these patients."""
ENOUGH_RIGHT = 10


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def demo(bundle: Path, out: Path) -> None:
    """Draw captures of 12 patients, screen them with BUNDLE, and compare the results with the truth."""
    private_folder(out)
    captures, html = out / "captures", out / "report.html"
    os.environ["SCREEN_DATABASE_URL"] = f"sqlite:///{out / 'screening.db'}"
    os.environ.pop("SCREEN_REDIS_URL", None)
    labels = _screen("synth", captures, "--patients", PATIENTS, "--captures", CAPTURES, "--seed", SEED).strip()
    _screen(
        "run", captures, "--bundle", bundle, "--truth", labels, "--html", html,
        "--worker-log", out / "worker.log", show=True,
    )  # fmt: skip
    run = json.loads(_screen("status", "--json"))[0]["run_id"]
    faults = check(json.loads(_screen("report", run, "--json", "--truth", labels)))
    for fault in faults:
        say(fault, "bold red")
    _say_what_next(run, html)
    sys.exit(1 if faults else 0)


def check(report: dict[str, Any]) -> list[str]:
    """The faults in the demo's report, which has the true labels: missing captures, wrong results of patients."""
    run = report["run"]
    faults = []
    if run["submitted"] != run["screened"] + run["rejected"] + run["quarantined"] or run["finished_at"] is None:
        faults.append("not every capture is accounted for")
    if run["submitted"] != PATIENTS * CAPTURES:
        faults.append(f"{run['submitted']} captures submitted, {PATIENTS * CAPTURES} expected")
    right = sum(case["right"] is True for case in report["cases"])
    say(f"{right} of {PATIENTS} patients called right")
    if right < ENOUGH_RIGHT:
        faults.append(f"at least {ENOUGH_RIGHT} should be")
    return faults


def _screen(*arguments: object, show: bool = False) -> str:
    """Run `screen ARGUMENTS` and show the command on stderr. Returns its stdout; with `show`, prints it instead."""
    words = [str(argument) for argument in arguments]
    say(f"$ screen {shlex.join(words)}", "dim")
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "producer.cli", *words], stdout=None if show else subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def _say_what_next(run: int, html: Path) -> None:
    database = os.environ["SCREEN_DATABASE_URL"]
    for line in (
        "",
        f"The report, with the captures behind each result: {html}",
        "Next, perhaps:",
        f"  export SCREEN_DATABASE_URL={database} PATH=$PWD/.venv/bin:$PATH",
        f"  screen report {run} --csv",
        "  screen status",
        "  screen run FOLDER --bundle bundles/demo.bundle   # a folder of yours; this bundle knows only drawings",
    ):
        say(line)


if __name__ == "__main__":
    demo()
