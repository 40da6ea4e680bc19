"""The Celery application, which `screen worker` starts.

contract/messages.py has the settings and their reasons. Importing this module opens no connection.
"""

import sys
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init

from contract.errors import ScreeningError
from contract.logs import configure_logging
from contract.messages import celery_config
from contract.printable import printable_lines
from contract.settings import get_settings
from worker.start import check_start
from worker.sweeper import SweeperStep
from worker.transport import use_strict_transport

use_strict_transport()
app = Celery("slide-screen", include=["worker.tasks"])
app.config_from_object(celery_config(get_settings().redis_url, get_settings().chunk_seconds))
app.conf.worker_consumer = "worker.consumer:QuietConsumer"
app.steps["consumer"].add(SweeperStep)


@worker_init.connect
def _check(**_: Any) -> None:
    """End a worker that cannot work with a sentence and an exit code, as `screen` ends any command."""
    _setup_logging()
    try:
        check_start(get_settings(), app.connection_for_write())
    except ScreeningError as error:
        print(f"screen: {printable_lines(str(error), indent='    ')}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


@setup_logging.connect
def _setup_logging(**_: Any) -> None:
    settings = get_settings()
    configure_logging(settings.log_level, settings.log_format)
