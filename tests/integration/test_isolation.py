"""Whatever isolation the server, the database, the role, the URL or a pooler has as its default: what several processes
do at once comes out the same, because each transaction names its own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from contract.bundle import Bundle
from db import schema
from db.engine import open_engine, reading, writing
from tests.integration.test_chunks import test_eight_workers_claiming_ahead_get_each_chunk_once as claims_at_once
from tests.integration.test_results import (
    test_two_workers_finishing_the_last_two_chunks_of_cases_at_once_aggregate_each_once as finished_at_once,
)
from tests.integration.test_results import (
    test_two_workers_that_write_it_at_the_same_instant_both_learn_of_it as mixed_up_at_once,
)
from tests.integration.test_submission import test_four_submits_at_once_make_one_run as submitted_at_once
from tests.support.servers import PGBOUNCER, pgbouncer

AT_ONCE = {
    "claims": claims_at_once, "finishes": finished_at_once, "mix-ups": mixed_up_at_once, "submits": submitted_at_once,
}  # fmt: skip
DEFAULTS = ("read committed", "repeatable read", "serializable")
PLACES = [(("database", default), what) for default in DEFAULTS for what in AT_ONCE] + [
    ((place, "serializable"), "finishes") for place in ("role", "url", "pooler")
]


@pytest.fixture
def database(request: pytest.FixtureRequest, postgres: str, postgres_url: str) -> Iterator[Engine]:
    """A PostgreSQL database whose transactions have this isolation unless they say otherwise."""
    place, default = request.param
    url, admin = make_url(postgres_url), create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with ExitStack() as stack:
        stack.callback(admin.dispose)
        setting = f"SET default_transaction_isolation = '{default}'"
        if place == "url":
            escaped = default.replace(" ", "\\ ")
            postgres_url += f"&options={quote(f'-c default_transaction_isolation={escaped}')}"
        else:
            with admin.begin() as connection:
                if place == "role":
                    connection.execute(text(f"CREATE ROLE r_{url.database} SUPERUSER LOGIN"))
                    connection.execute(text(f"ALTER ROLE r_{url.database} {setting}"))
                else:
                    connection.execute(text(f"ALTER DATABASE {url.database} {setting}"))
        if place == "role":
            stack.callback(drop_role, admin, f"r_{url.database}")
            postgres_url = url.set(username=f"r_{url.database}").render_as_string(hide_password=False)
        if place == "pooler":
            if PGBOUNCER is None:
                pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
            port = stack.enter_context(pgbouncer(postgres, pool_mode="transaction"))
            postgres_url = f"postgresql://postgres@127.0.0.1:{port}/{url.database}"
        engine = open_engine(postgres_url)
        stack.callback(engine.dispose)
        schema.upgrade(engine)
        with engine.connect() as connection:
            assert connection.execute(text("SHOW default_transaction_isolation")).scalar() == default
        yield engine


def drop_role(admin: Engine, role: str) -> None:
    with admin.begin() as connection:
        connection.execute(text(f"REASSIGN OWNED BY {role} TO CURRENT_USER"))
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))


@pytest.mark.parametrize(
    ("database", "what"), PLACES, ids=lambda one: one if isinstance(one, str) else " ".join(one), indirect=["database"]
)
def test_what_is_done_at_once_comes_out_the_same(database: Engine, bundle: Bundle, what: str) -> None:
    """The second transaction on a connection has its isolation, too: a pool hands connections on."""
    at_once: Callable[[Engine, Bundle], None] = AT_ONCE[what]
    at_once(database, bundle)
    for _ in range(2):
        with writing(database) as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
        with reading(database) as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == "repeatable read"
