"""The demo, as `make demo` calls it: what a stranger tries first."""

import subprocess
from pathlib import Path

from tests.support.commands import REPOSITORY, Environment


def test_the_demo_screens_its_patients_and_finds_them_right(tmp_path: Path) -> None:
    alone = Environment(tmp_path, "", "")
    variables = {name: value for name, value in alone.variables.items() if not name.endswith("_URL")}
    done = subprocess.run(
        [alone.python, "-m", "producer.demo", "--bundle", REPOSITORY / "bundles" / "demo.bundle", "--out", "out"],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 of 12 patients called right" in done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
