"""Who vouches for a bundle: an Ed25519 signature (RFC 8032) of its digest, in bundle.sig beside bundle.json.

Digests say that nothing was changed by accident; whoever can write to the folder can write new ones. A signature says
that somebody with a private key, which lies elsewhere, has passed the bundle. SCREEN_TRUSTED_KEYS names a file with
public keys; where it is set, a bundle without the signature of one of them is refused.

    bundle.sig      one line: the public key and the signature, both in hexadecimal
    trusted keys    a line for each public key, in hexadecimal; what follows a # is a comment
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contract.bundle import SIGNATURE, Bundle
from contract.bundle_files import Unreadable, read_file
from contract.errors import BundleError, SettingsError, UsageError
from contract.files import write_whole

_PURPOSE = b"slide-screen bundle 1\n"
"""Before the digest in what is signed: a signature that the key gave for something else is none here."""
_SETTING = "SCREEN_TRUSTED_KEYS"
_MOST_BYTES = 1024
_MOST_BYTES_OF_KEYS = 2**20


def make_key(file: Path) -> str:
    """Write a new private key, readable only by its owner; returns the public key. Raises UsageError, OSError."""
    key = Ed25519PrivateKey.generate()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{file} is there already, and no key is replaced; name another file") from None
    with os.fdopen(handle, "w") as stream:
        stream.write(key.private_bytes_raw().hex() + "\n")
    return key.public_key().public_bytes_raw().hex()


def sign(bundle: Bundle, key_file: Path) -> str:
    """Write the bundle's signature into its folder, in place of an earlier one; returns the public key.

    Raises UsageError for a key that is none, or that others may read.
    """
    key = _private_key(key_file)
    public = key.public_key().public_bytes_raw().hex()
    write_whole(bundle.path / SIGNATURE, f"{public} {key.sign(_signed(bundle)).hex()}\n")
    return public


def require_signature(bundle: Bundle, trusted_keys: Path | None) -> str | None:
    """The key in the file `trusted_keys` that has signed the bundle; None without such a file: all bundles are taken.

    Raises BundleError, and SettingsError where the keys cannot be read.
    """
    if trusted_keys is None:
        return None
    trusted = _trusted(trusted_keys)
    signer, signature = _signature(bundle)
    if signer not in trusted:
        raise _refused(bundle, f"is signed with the key {signer}, which {_SETTING} does not name")
    with suppress(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(signature, _signed(bundle))
        return signer
    raise _refused(bundle, f"has a {SIGNATURE} that is of another bundle, or forged")


def _signed(bundle: Bundle) -> bytes:
    return _PURPOSE + bundle.digest.encode()


def _signature(bundle: Bundle) -> tuple[str, bytes]:
    """The public key, in hexadecimal, and the signature in bundle.sig."""
    try:
        words = read_file(bundle.path, SIGNATURE, _MOST_BYTES).split()
        signer, signature = (bytes.fromhex(word.decode("ascii")) for word in words)
    except Unreadable as error:
        if error.is_missing:
            raise _refused(bundle, "has no signature") from None
        raise _refused(bundle, f"has a {SIGNATURE} that {error}") from None
    except ValueError:
        raise _refused(bundle, f"has a {SIGNATURE} that holds something else than a key and a signature") from None
    return signer.hex(), signature


def _refused(bundle: Bundle, why: str) -> BundleError:
    return BundleError(
        f"bundle {bundle.path}: {why}; {_SETTING} is set, so only signed bundles are used: whoever may vouch for it "
        "signs it with `screen bundle sign`"
    )


def _trusted(file: Path) -> frozenset[str]:
    try:
        with file.open("rb") as stream:
            lines = stream.read(_MOST_BYTES_OF_KEYS).decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"{_SETTING}: {file} cannot be read ({why}); it needs a public key on each line") from None
    keys = {line.partition("#")[0].strip().lower() for line in lines} - {""}
    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        except ValueError:
            raise SettingsError(
                f"{_SETTING}: a line of {file} is no public key; `screen bundle keygen` prints one of 64 digits"
            ) from None
    if not keys:
        raise SettingsError(f"{_SETTING}: {file} holds no public key; then no bundle could be used")
    return frozenset(keys)


def _private_key(file: Path) -> Ed25519PrivateKey:
    try:
        with file.open("rb") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise UsageError(f"{file}: others may read this private key; `chmod 600` it")
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(stream.read(_MOST_BYTES).decode("ascii").strip()))
    except OSError as error:
        raise UsageError(f"{file}: the private key cannot be read ({error.strerror})") from None
    except ValueError:
        raise UsageError(f"{file} is no private key; make one with `screen bundle keygen`") from None
