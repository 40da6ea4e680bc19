"""Every setting of the system, typed and read once from the environment (prefix SCREEN_). An error names all faults."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.database_url import checked_database_url
from contract.errors import SettingsError
from contract.redis_url import checked_redis_url
from contract.states import EngineName, Precision

PREFIX = "SCREEN_"
NOT_SETTINGS = frozenset({"SCREEN_REAL_CAPTURES"})
"""Variables with our prefix that are not settings: this one says where the tests find real captures."""


class Settings(BaseSettings):
    """One field per environment variable: `database_url` is SCREEN_DATABASE_URL. docs/operations.md lists them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: Annotated[str, AfterValidator(checked_database_url)] = Field(
        "sqlite:///screening.db",
        description="the database: `sqlite:///FILE`, or `postgresql://...` as soon as there is more than one machine",
    )
    redis_url: Annotated[str, AfterValidator(checked_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
        description="the Redis that carries chunk ids: `redis://...`, `rediss://...` for TLS, or "
        "`redis+socket:///PATH` ([more](#redis))",
    )
    allow_unverified_database: bool = Field(
        False,
        description="do not warn that the connection to a PostgreSQL server on another machine lacks "
        "`sslmode=verify-full`",
    )
    bundle: Path | None = Field(None, description="the bundle that `submit` and `run` use when the command names none")
    bundle_dir: Path | None = Field(
        None,
        description="folder of bundles on this machine, searched by digest when the recorded path does not exist here",
    )
    trusted_keys: Path | None = Field(
        None,
        description="file with the public keys of those who may vouch for bundles; where it is set, a bundle that none "
        "of them has signed is refused ([more](#signed-bundles))",
    )
    site: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,31}$",
        description="short name of the laboratory, in exports, queue rows and FHIR identifiers: up to 32 letters, "
        "digits, `.` and `-`; needed as soon as more than one database reports to one system; fixed for a run at "
        "submit",
    )
    chunk_size: int = Field(256, ge=1, le=4096, description="captures in a chunk: seconds of work, never minutes")
    lease_seconds: int = Field(
        60, ge=3, le=3600, description="how long a chunk belongs to a worker that has stopped answering"
    )
    max_attempts: int = Field(3, ge=1, le=20, description="how often a chunk is claimed before it is halved")
    chunk_seconds: int = Field(
        300,
        ge=5,
        le=600,
        description="time limit of a chunk; after it, the captures that were being screened are screened alone",
    )
    open_seconds: int = Field(
        240,
        ge=1,
        le=3600,
        description="time limit for opening a bundle's engine, in a worker and in `screen bundle verify`; after it, "
        "the bundle is refused, and no capture blamed",
    )
    memory_mib: int = Field(
        8192,
        ge=512,
        description="largest memory of a worker's process, and of `screen bundle verify`; a capture that needs "
        "more is screened alone",
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
    patience_seconds: float = Field(
        600,
        ge=1,
        le=86400,
        description="how long `screen run` waits while nothing goes on (Redis, database or archive away, no worker "
        "able to work) before it ends with the reason; also how long `watch` waits for a database that is away",
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
        description="chunks that a worker claims before its current one is done; if the worker is killed, all of them "
        "wait until their leases end; unset: measured",
    )
    cache_dir: Path | None = Field(None, description="folder of compiled engines; unset: the user's cache folder")
    reviewers: int = Field(
        1, ge=1, le=9, description="reviewers who must agree before a case is closed; fixed for a run at submit"
    )
    report_at: Literal["screening", "sign_off"] = Field(
        "sign_off",
        description="when a case goes to the reporting queue: when it is screened, or when reviewers have closed it; "
        "fixed for a run at submit",
    )
    reviewer: str | None = Field(
        None, min_length=1, description="the name that is stored with a reviewer's actions; unset: the login name"
    )
    review_hold_minutes: int = Field(
        30, ge=1, le=1440, description="how long `screen review next` keeps a case from other reviewers"
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="file with the secret key of patients' pseudonyms, readable only by its owner, for "
        "`--pseudonymize` and for workers",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["console", "json"] = Field("console", description="`console`: for people; `json`: for machines")


def read_settings() -> Settings:
    """Read the environment again. Raises SettingsError that names every unknown variable and every wrong value."""
    setting_names = {PREFIX + name.upper() for name in Settings.model_fields}
    faults = [
        f"{name} is not a setting (docs/operations.md lists them)"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in setting_names | NOT_SETTINGS
    ]
    try:
        settings = Settings()
    except ValidationError as error:
        faults += [_sentence(fault) for fault in error.errors()]
        raise SettingsError("; ".join(faults)) from None
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def _sentence(fault: ErrorDetails) -> str:
    """Which setting is wrong and why: in our own words where a check of ours refused it, else in pydantic's."""
    words = fault["ctx"]["error"] if fault["type"] == "value_error" else fault["msg"]
    return f"{PREFIX}{'.'.join(map(str, fault['loc'])).upper()}: {words}"


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    return read_settings()
