"""The task. No logic: Celery hands over a chunk's id, the process screens the chunk."""

from contract.messages import SCREEN_CHUNK
from worker.app import app
from worker.process import get_process


@app.task(name=SCREEN_CHUNK)
def screen_chunk(chunk: int) -> None:
    """Screen the chunk of this id."""
    get_process().screen_chunk(chunk)
