"""Every setting of the system: typed, read once from the environment (prefix SCREEN_), all faults named at once."""

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.errors import SettingsError
from contract.states import EngineName, Precision

PREFIX = "SCREEN_"
NOT_SETTINGS = frozenset({"SCREEN_REAL_CAPTURES"})
"""Variables with our prefix that are no settings: where the tests find real captures."""


class Settings(BaseSettings):
    """One field per environment variable: `database_url` is SCREEN_DATABASE_URL. docs/operations.md lists them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: str = Field(
        "sqlite:///screening.db",
        description="the database: `sqlite:///FILE`, or `postgresql://...` as soon as there is more than one machine",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="the Redis that carries chunk ids; `rediss://` for TLS"
    )
    bundle: Path | None = Field(None, description="the bundle that `submit` and `run` use when none is named")
    bundle_dir: Path | None = Field(
        None, description="folder of bundles on this machine, searched by digest when the recorded path is not here"
    )
    chunk_size: int = Field(256, ge=1, le=4096, description="captures in a chunk: seconds of work, never minutes")
    lease_seconds: int = Field(
        60, ge=3, le=3600, description="how long a chunk belongs to a worker that has stopped answering"
    )
    max_attempts: int = Field(3, ge=1, le=20, description="claims of a chunk before it is halved")
    chunk_seconds: int = Field(
        300, ge=5, le=600, description="time limit of a chunk; then its captures under way are screened alone"
    )
    memory_mib: int = Field(
        8192, ge=512, description="most memory of a worker's process; a capture that wants more is screened alone"
    )
    sweep_seconds: float = Field(
        10, ge=0.2, le=3600, description="how often each worker looks for chunks whose message or lease was lost"
    )
    republish_seconds: float = Field(
        60,
        ge=0.2,
        le=86400,
        description="age at which the message of an unclaimed chunk counts as lost and is sent again",
    )
    engine: EngineName = Field(
        EngineName.AUTO,
        description="inference engine of the worker; auto: the first of these that is installed and reproduces the "
        "bundle",
    )
    precision: Precision = Field(
        Precision.AUTO, description="arithmetic of the engine; auto: the fastest in which it reproduces the bundle"
    )
    batch_size: int | None = Field(None, ge=1, le=1024, description="captures per call of the engine; unset: measured")
    decoders: int | None = Field(None, ge=1, le=256, description="decoding threads; unset: measured")
    chunks_ahead: int | None = Field(
        None,
        ge=0,
        le=64,
        description="chunks that a worker claims before the one in hand is done; a killed worker costs all of them "
        "their lease; unset: measured",
    )
    cache_dir: Path | None = Field(None, description="folder of compiled engines; unset: the user's cache folder")
    reviewers: int = Field(
        1, ge=1, le=9, description="reviewers who must agree before a case is closed; sealed with a run at submit"
    )
    report_at: Literal["screening", "sign_off"] = Field(
        "screening",
        description="when a case goes to the reporting queue: when it is screened, or when reviewers have closed it; "
        "sealed with a run at submit",
    )
    reviewer: str | None = Field(
        None, min_length=1, description="the name that is kept with a reviewer's actions; unset: the login name"
    )
    review_hold_minutes: int = Field(
        30, ge=1, le=1440, description="how long `screen review next` keeps a case from other reviewers"
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="file with the secret key of patients' pseudonyms, readable by its owner alone, for "
        "`--pseudonymize` and for workers",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["console", "json"] = Field("console", description="log lines for people or for machines")


def read_settings() -> Settings:
    """Read the environment anew. Raises SettingsError naming every unknown variable and every wrong value."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    faults = [
        f"{name} is not a setting (docs/operations.md lists them)"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known | NOT_SETTINGS
    ]
    try:
        settings = Settings()
    except ValidationError as error:
        faults += [f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(faults)) from None
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    return read_settings()
