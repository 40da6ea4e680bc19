"""What a worker looks at before it starts, so that it ends with a sentence instead of failing at every chunk."""

from typing import Any

import structlog

from contract.errors import BrokerUnavailable
from contract.pseudonyms import read_key
from contract.queue_check import check_queue
from contract.settings import Settings
from contract.shared_locks import check_shared_locks
from db.progress import pseudonym_keys_needed
from db.schema import open_database
from db.url import unverified

log = structlog.get_logger(__name__)


def check_start(settings: Settings, redis: Any) -> None:
    """Check shared locks, the database and its schema, the key of the pseudonyms if the settings name one, and Redis.

    `redis` is a kombu connection to it, which is opened here. A Redis that does not answer is waited for, later. Runs
    that wait and need another key, or a key at all, are named in the log: another worker must have it. Raises
    SettingsError, DatabaseUnavailable, DatabaseVersionError, BrokerForbids, and others of contract/errors.py.
    """
    check_shared_locks()
    if sentence := unverified(settings):
        log.warning(sentence)
    database = open_database(settings.database_url, pooled=False)
    own = read_key(settings.pseudonym_key_file).fingerprint if settings.pseudonym_key_file else None
    for fingerprint, runs in pseudonym_keys_needed(database).items():
        if fingerprint != own:
            log.warning(
                f"this worker cannot screen runs {', '.join(map(str, runs))}: the patients have pseudonyms of the key "
                f"{fingerprint}; SCREEN_PSEUDONYM_KEY_FILE must name it, here or at another worker"
            )
    try:
        for warning in check_queue(redis, receives=True):
            log.warning(warning)
    except BrokerUnavailable as error:
        log.warning(str(error))
