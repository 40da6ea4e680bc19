"""Signed bundles: with trusted keys, only what one of them has signed is used, whatever lies in bundle.sig."""

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.bundle import SIGNATURE, Bundle, write_manifest
from contract.bundle_signature import make_key, require_signature, sign
from contract.errors import BundleError, SettingsError, UsageError

OTHER = "00" * 64


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Bundle:
    return replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "signed.bundle")))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "lab.key")
    return tmp_path / "lab.key"


@pytest.fixture
def trusted(tmp_path: Path, key: Path) -> Path:
    """The keys of two people, of whom one has signed nothing."""
    other = make_key(tmp_path / "other.key")
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key.read_text()))
    file = tmp_path / "trusted"
    file.write_text(
        f"# who may vouch\n{other}  # Dr. A\n\n{private.public_key().public_bytes_raw().hex().upper()} # B\n"
    )
    return file


def refusal(bundle: Bundle, trusted: Path) -> str:
    with pytest.raises(BundleError) as caught:
        require_signature(bundle, trusted)
    assert "SCREEN_TRUSTED_KEYS is set" in str(caught.value)
    return str(caught.value)


def test_a_private_key_is_for_its_owner_and_never_replaced(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="is there already"):
        make_key(key)


def test_a_signed_bundle_is_taken_also_after_it_was_opened_again(copied: Bundle, key: Path, trusted: Path) -> None:
    public = sign(copied, key)
    assert require_signature(Bundle.open(copied.path), trusted) == public
    assert public in trusted.read_text().lower()


def test_without_trusted_keys_signatures_are_not_looked_at(copied: Bundle) -> None:
    (copied.path / SIGNATURE).write_bytes(b"notes")
    assert require_signature(Bundle.open(copied.path), None) is None


def test_a_bundle_without_a_signature_is_refused(copied: Bundle, trusted: Path) -> None:
    assert "has no signature" in refusal(copied, trusted)


def test_the_signature_of_somebody_else_is_refused(copied: Bundle, trusted: Path, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger.key")
    sign(copied, tmp_path / "stranger.key")
    assert f"the key {stranger}, which" in refusal(copied, trusted)


def test_the_signature_of_another_bundle_is_refused(copied: Bundle, bundle: Bundle, key: Path, trusted: Path) -> None:
    sign(copied, key)
    signature = (copied.path / SIGNATURE).read_bytes()
    changed = write_manifest(copied.path, copied.manifest.model_copy(update={"name": "another"}))
    assert not (copied.path / SIGNATURE).exists(), "a new manifest is signed anew"
    (copied.path / SIGNATURE).write_bytes(signature)
    assert "of another bundle, or forged" in refusal(changed, trusted)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"0" * 100_000, OTHER.encode(), b"zz zz", f"{OTHER} {OTHER} {OTHER}".encode(), b"\0" * 200],
    ids=["nothing", "no text", "too much", "one word", "no digits", "three words", "zeros"],
)
def test_whatever_lies_in_the_signatures_file_is_refused(copied: Bundle, trusted: Path, content: bytes) -> None:
    (copied.path / SIGNATURE).write_bytes(content)
    refusal(copied, trusted)


def test_a_flipped_bit_of_the_signature_is_refused(copied: Bundle, key: Path, trusted: Path) -> None:
    sign(copied, key)
    text = (copied.path / SIGNATURE).read_text()
    (copied.path / SIGNATURE).write_text(text[:-2] + ("0" if text[-2] != "0" else "1") + "\n")
    assert "forged" in refusal(copied, trusted)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_refused_and_nobody_waits(
    copied: Bundle, trusted: Path, make: Callable[[Path], object]
) -> None:
    make(copied.path / SIGNATURE)
    refusal(copied, trusted)


@pytest.mark.parametrize("content", ["", "# nobody\n", "zz", "00", "ä"])
def test_trusted_keys_that_are_none_are_a_fault_of_the_settings(copied: Bundle, tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="SCREEN_TRUSTED_KEYS"):
        require_signature(copied, tmp_path / "keys")
    with pytest.raises(SettingsError, match="cannot be read"):
        require_signature(copied, tmp_path / "nowhere")


def test_a_private_key_that_others_may_read_or_that_is_none_signs_nothing(copied: Bundle, key: Path) -> None:
    key.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        sign(copied, key)
    key.chmod(0o600)
    key.write_text("notes")
    with pytest.raises(UsageError, match="is no private key"):
        sign(copied, key)
    assert not (copied.path / SIGNATURE).exists()
