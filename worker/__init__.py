"""The Celery worker: a thin task over a pipeline that decodes, infers and writes rows."""

from contract.isolation import refuse_current_folder

refuse_current_folder()  # before anything else of this program is imported
