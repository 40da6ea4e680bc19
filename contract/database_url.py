"""Which database URLs are taken, as far as text alone tells. db/url.py looks at the rest, with the driver's own parser.

No sentence repeats a part of the URL. An unescaped character in a password moves its end into another part: into the
port or the host, for example.
"""

FORMS = "write sqlite:///FILE or postgresql://USER:PASSWORD@HOST:5432/DATABASE"
ESCAPES = "in a user's name or a password, write characters such as @ : / ? # % percent-encoded (%40 for @)"
_PSYCOPG = {"", "psycopg", "psycopg2"}
_DRIVERS = {"sqlite": {"", "pysqlite"}, "postgresql": _PSYCOPG, "postgres": _PSYCOPG}
"""Kinds of databases, and how a URL may name the driver of each."""


def checked_database_url(text: str) -> str:
    """The URL without blanks around it. Raises ValueError with a sentence for one that no driver of ours can take."""
    text = text.strip()
    scheme, found, rest = text.partition("://")
    backend, _, driver = scheme.lower().partition("+")
    if not found:
        raise ValueError(f"it is not a database URL; {FORMS}")
    if backend not in _DRIVERS:
        raise ValueError(f"only SQLite and PostgreSQL are supported; {FORMS}")
    if driver not in _DRIVERS[backend]:
        raise ValueError(f"leave out the driver, this program brings its own; {FORMS}")
    if backend == "sqlite":
        _check_file(rest)
    elif "#" in rest:
        raise ValueError(f"a # cannot stand in it; {ESCAPES}")
    return text


def _check_file(rest: str) -> None:
    if not rest.startswith("/"):
        raise ValueError(
            "three slashes come before a file's name, four before a path from the root: sqlite:////srv/s.db"
        )
    if "?" in rest:
        raise ValueError("a SQLite URL has no options, and its file's name no question mark")
    if rest in ("/", "/:memory:"):
        raise ValueError("workers share the database, so SQLite needs a file: sqlite:///screening.db")
