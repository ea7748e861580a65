"""Signatures of packaged models: who packaged one, and that no byte of it has changed since.

The format is the OpenSSF's Model Signing (a DSSE envelope over the SHA-256 of every file), with an
elliptic-curve key and no online service. `model_signing verify key` checks such a signature as well.
"""

import base64
import hashlib
import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

from components.errors import InputError
from components.files import written_whole

SIGNATURE = "model.sig"
"""The signature's file in a package: whoever has the package has it too."""

UNSIGNED = (SIGNATURE, "registered_model_meta")
"""Files of a package that are not signed: itself, and a name and number that MLflow adds to a download."""

KEY = "VITRINE_SIGNING_KEY"
"""Variable with the private key's file. Without it a key is made at the first use, in DEFAULT_KEY."""

REQUIRE = "VITRINE_REQUIRE_SIGNATURE"
"""Variable with the public key's file that a model must be signed for to be loaded."""

DEFAULT_KEY = Path(".vitrine/keys/signing.pem")
CURVES = ("secp256r1", "secp384r1", "secp521r1")


def signing_key() -> Path:
    """The private key's file; made on the first use, with the public key beside it, if KEY does not name one.

    Raises:
        InputError: the file that KEY names is missing, readable by others, or no key that can sign.
    """
    given = os.environ.get(KEY)
    path = Path(given or DEFAULT_KEY).absolute()
    if not given:
        make_keys(path)
    _private_key(path)
    return path


def required_key() -> Path | None:
    """The public key's file that REQUIRE names, if it names one."""
    given = os.environ.get(REQUIRE)
    return Path(given).absolute() if given else None


def public_key_file(private_key: Path) -> Path:
    """Where `make_keys` leaves the public key: the file to give to whoever loads models."""
    return private_key.with_suffix(".pub")


def make_keys(private_key: Path) -> None:
    """Makes a key pair (P-256) if there is none. Safe against a second process doing the same.

    Args:
        private_key: PEM (PKCS 8), never readable by others; the public key lies beside it.
    """
    private_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not private_key.exists():
        # A temporary file has mode 0600 from its first moment; a link never replaces another process's key.
        with tempfile.NamedTemporaryFile(dir=private_key.parent, prefix=f".{private_key.name}.") as candidate:
            candidate.write(
                ec.generate_private_key(ec.SECP256R1()).private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            candidate.flush()
            os.fsync(candidate.fileno())
            with suppress(FileExistsError):
                private_key.hardlink_to(candidate.name)
    if not public_key_file(private_key).exists():
        with written_whole(public_key_file(private_key)) as temporary:
            temporary.write_bytes(_pem(_private_key(private_key).public_key()))


def sign(folder: Path, private_key: Path) -> str:
    """Signs every file of a package; the signature becomes one of its files.

    Returns:
        The signing key's fingerprint, as in `fingerprint`.

    Raises:
        InputError: the key cannot sign, or the package holds links or other special files.
    """
    key = _private_key(private_key)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    try:
        signer.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
    except ValueError as error:
        raise InputError(f"{folder}: cannot be signed: {error}") from None
    return _sha256(key.public_key())


def verify(folder: Path, public_key: Path, *, running: bool = False) -> None:
    """Checks that a package is, byte for byte, what the key's owner signed.

    What it protects from depends on where it runs: before a package is loaded, from anything; inside
    the package's own code, from altered weights alone, since altered code may leave the check out.

    Args:
        running: Python has compiled the package's code there, so `__pycache__` may be there too. Elsewhere
            it may not, since Python would run what lies in it instead of the signed code.

    Raises:
        InputError: no signature, one by another key, or files that were altered, added or removed.
    """
    key, signer = fingerprint(public_key), signed_by(folder)
    if signer != key:
        raise InputError(
            f"{folder}: signed by the key {signer[:16]}, not by {key[:16]} in {public_key}; load a model that this "
            f"key's owner signed, or give the other public key in {REQUIRE}"
        )
    compiled = [path.relative_to(folder) for path in folder.rglob("__pycache__")] if running else []
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(_hashing(compiled)).verify(folder, folder / SIGNATURE)
    except InvalidSignature:
        raise InputError(f"{folder / SIGNATURE}: forged or altered: not the key {key[:16]}'s signature") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        found = "; ".join(_differences(folder, compiled)) or str(error)
        raise InputError(f"{folder}: not what was signed: {found}; fetch the model again, or sign it anew") from None


def signed_by(folder: Path) -> str:
    """Fingerprint of the key that a package says it was signed by; not checked here.

    Raises:
        InputError: there is no signature, or it cannot be read.
    """
    content = _signature(folder)
    try:
        return str(content["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError):
        raise InputError(f"{folder / SIGNATURE}: names no key; it must be one that `sign` made") from None


def fingerprint(public_key: Path) -> str:
    """Hex SHA-256 of a public key in PEM: what a signature calls its key.

    Raises:
        InputError: the file is missing or holds no elliptic-curve public key.
    """
    try:
        key = serialization.load_pem_public_key(public_key.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{public_key}: cannot be read as a public key (PEM): {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise InputError(f"{public_key}: is no public key on one of the curves {list(CURVES)}")
    return _sha256(key)


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {KEY} must name a private key, or be unset to have one made") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: cannot be read as a private key (PEM, no password): {error}") from None
    if mode & 0o077:
        raise InputError(f"{path}: has mode {mode:04o}, so that others can read the key; run: chmod 600 {path}")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise InputError(f"{path}: is no private key on one of the curves {list(CURVES)}")
    return key


def _hashing(ignored: list[Path] | None = None) -> hashing.Config:
    # By default the library lets files of git pass unsigned.
    paths = [*map(Path, UNSIGNED), *(ignored or [])]
    return hashing.Config().set_ignored_paths(paths=paths, ignore_git_paths=False)


def _signature(folder: Path) -> Any:
    path = folder / SIGNATURE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: not signed: it has no {SIGNATURE}; sign it, or unset {REQUIRE}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _differences(folder: Path, ignored: list[Path]) -> list[str]:
    """What tells the files from those that were signed; the signature as such is valid."""
    try:
        payload = json.loads(base64.b64decode(_signature(folder)["dsseEnvelope"]["payload"]))
        signed = {entry["name"]: entry["digest"] for entry in payload["predicate"]["resources"]}
        items = _hashing(ignored).hash(folder).resource_descriptors()
    except (ValueError, KeyError, TypeError):
        return []
    found = {item.identifier: item.digest.digest_hex for item in items}
    return [
        *(f"{name} was altered" for name in sorted(found) if name in signed and found[name] != signed[name]),
        *(f"{name} is missing" for name in sorted(signed.keys() - found)),
        *(f"{name} was added" for name in sorted(found.keys() - signed)),
    ]


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _sha256(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_pem(key)).hexdigest()
