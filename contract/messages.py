"""What is sent over Redis: a task's name, a chunk's id and the database's UUID. Nothing else: no path, no patient.

Producer and worker build their Celery application from the same plain settings here, so they cannot differ.
"""

from typing import Any

SCREEN_CHUNK = "screen.chunk"
"""Task: screen one chunk. `chunk_message` has its arguments."""
QUEUE = "chunks"
CHUNK_SECONDS = 300
GRACE_S = 60
"""After the time limit a child gives its chunks back and ends. A child that cannot is killed this much later."""


def chunk_message(chunk_id: int, database: str) -> dict[str, int | str]:
    """The task's arguments: the chunk's id, and the UUID of the database that gave it. A worker drops a message of
    another database: a backup that was restored gives the same id to another chunk.
    """
    return {"chunk": chunk_id, "database": database}


def celery_config(redis_url: str, chunk_seconds: int = CHUNK_SECONDS) -> dict[str, Any]:
    """Celery's settings; `chunk_seconds` is a worker's time limit for a chunk.

    Each line that is not obvious says what goes wrong without it.
    """
    return {
        "broker_url": redis_url,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUE,
        "task_ignore_result": True,  # no result backend: results are rows
        "task_store_errors_even_if_ignored": False,
        # A message is done when its chunk is done, not when it is received. A failed task's message is done too: the
        # database says that its chunk is not done, so the sweeper sends it again.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,  # otherwise a killed child's message counts as done (celery #1628)
        "task_acks_on_failure": True,  # False drops failed messages silently
        "task_acks_on_timeout": True,
        "task_soft_time_limit": chunk_seconds,
        "task_time_limit": chunk_seconds + GRACE_S,
        "task_track_started": False,
        "worker_prefetch_multiplier": 1,
        # One child per device: threads know no time limits (celery #9203), solo blocks heartbeats (#3768).
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_max_tasks_per_child": 500,
        "worker_proc_alive_timeout": 120,  # opening an engine takes longer than the default of 4 s
        "worker_soft_shutdown_timeout": 60,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # True ran the work twice
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,  # else any client of Redis may stop workers; and it needs channels
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # otherwise a Redis with a full disk ends the worker
        "broker_transport_options": {
            # kombu would note each message that a worker has in Redis, and believe every note that it finds there. A
            # worker that is killed loses its messages without them; a sweep sends their chunks again after a minute.
            "ack_emulation": False,
            "priority_steps": [0],  # one list: nobody sends with priorities
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    }
