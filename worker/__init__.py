"""The Celery worker: a thin task over a pipeline that decodes, infers and writes rows."""
