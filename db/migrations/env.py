"""Alembic's entry: runs the migrations on the connection that db.schema hands over, inside its transaction."""

from alembic import context

from db import models  # noqa: F401 - declares the tables
from db.columns import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
