"""Running `screen` and workers as a user does: as processes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Environment:
    """Where a test's commands run: one database, one Redis, one working folder, nothing of the caller's settings.

    A URL that is empty is not set.
    """

    folder: Path
    database_url: str
    redis_url: str
    python: str = sys.executable
    more: tuple[tuple[str, str], ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SCREEN_")}
        urls = {"SCREEN_DATABASE_URL": self.database_url, "SCREEN_REDIS_URL": self.redis_url}
        return {
            **inherited,
            **{name: url for name, url in urls.items() if url},
            "SCREEN_CACHE_DIR": str(self.folder / "cache"),
            "COLUMNS": "200",
            **dict(self.more),
        }

    def screen(self, *arguments: object, timeout_s: float = 300, **variables: str) -> Done:
        """Run `screen ARGUMENTS` to its end."""
        done = subprocess.run(
            [self.python, "-m", "producer.cli", *map(str, arguments)],
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object, log: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start `screen ARGUMENTS` in a session of its own, its output going to the file `log` in the folder."""
        return self._start(["producer.cli", *map(str, arguments)], log, variables)

    def start_celery(self, application: str, *, log: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a worker of another Celery application than ours, in the same way."""
        arguments = ["celery", "-A", application, "worker"]
        return self._start(arguments, log, variables | {"PYTHONPATH": str(REPOSITORY)})

    def _start(self, module: list[str], log: str, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / log).open("ab") as stream:
            return subprocess.Popen(
                [self.python, "-m", *module],
                cwd=self.folder,
                env={**self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
