"""Alembic migrations; the only way that the schema comes to be."""
