"""Signatures, by real keys, of folders laid out as packages are."""

import base64
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from components.errors import InputError
from components.signing import (
    DEFAULT_KEY,
    KEY,
    REQUIRE,
    SIGNATURE,
    fingerprint,
    make_keys,
    public_key_file,
    required_key,
    sign,
    signed_by,
    signing_key,
    verify,
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing.pem"
    make_keys(path)
    return path


@pytest.fixture
def package(tmp_path: Path, key: Path) -> Path:
    """A signed folder."""
    folder = tmp_path / "package"
    for name in ("MLmodel", "serving.py", "artifacts/gan/weights.safetensors", "code/components/images.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    sign(folder, key)
    return folder


def test_what_was_signed_passes_wherever_it_lies(package: Path, key: Path, tmp_path: Path) -> None:
    verify(package, public_key_file(key))
    copied = shutil.copytree(package, tmp_path / "elsewhere" / "m-123")
    (copied / "registered_model_meta").write_text("model_name: gan")  # MLflow adds it to a download
    verify(copied, public_key_file(key))
    assert signed_by(copied) == fingerprint(public_key_file(key))


def test_the_reference_program_takes_our_signature(package: Path, key: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(package)]
    options = ["--signature", str(package / SIGNATURE), "--public_key", str(public_key_file(key))]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (package / "serving.py").write_text("altered")
    assert subprocess.run([*command, *options], capture_output=True).returncode != 0


def altered(name: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        content = bytearray((package / name).read_bytes())
        content[-1] ^= 1
        (package / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (altered("artifacts/gan/weights.safetensors"), "artifacts/gan/weights.safetensors was altered"),
        (altered("MLmodel"), "MLmodel was altered"),
        (altered("code/components/images.py"), "code/components/images.py was altered"),
        (lambda package: (package / "serving.py").unlink(), "serving.py is missing"),
        (lambda package: (package / "code/torch.py").write_text("x"), "code/torch.py was added"),
        (lambda package: (package / ".gitignore").write_text("x"), ".gitignore was added"),
        (lambda package: (package / "code/link.py").symlink_to("/etc/hostname"), "symlink"),
    ],
)
def test_an_altered_package_is_refused_and_the_file_named(
    package: Path, key: Path, change: Callable[[Path], None], said: str
) -> None:
    change(package)
    with pytest.raises(InputError, match="not what was signed") as raised:
        verify(package, public_key_file(key))
    assert said in str(raised.value)
    with pytest.raises(InputError, match="not what was signed"):
        verify(package, public_key_file(key), running=True)


def test_compiled_code_is_let_pass_only_where_the_package_runs(package: Path, key: Path) -> None:
    compiled = package / "code/components/__pycache__/images.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    with pytest.raises(InputError, match=r"images\.cpython-311\.pyc was added"):
        verify(package, public_key_file(key))
    verify(package, public_key_file(key), running=True)


def test_an_unsigned_package_and_another_key_are_refused(package: Path, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "signing.pem"
    make_keys(other)
    with pytest.raises(InputError, match=rf"signed by the key {fingerprint(public_key_file(key))[:16]}, not by"):
        verify(package, public_key_file(other))
    (package / SIGNATURE).unlink()
    with pytest.raises(InputError, match=r"not signed: it has no model\.sig"):
        verify(package, public_key_file(key))


def test_a_signature_that_only_claims_the_key_is_refused(package: Path, key: Path, tmp_path: Path) -> None:
    """Signed by somebody else who writes our key's name into it."""
    theirs = tmp_path / "other" / "signing.pem"
    make_keys(theirs)
    altered("serving.py")(package)
    sign(package, theirs)
    text = (package / SIGNATURE).read_text()
    (package / SIGNATURE).write_text(text.replace(signed_by(package), fingerprint(public_key_file(key))))
    with pytest.raises(InputError, match="forged or altered"):
        verify(package, public_key_file(key))


def test_no_altered_byte_of_a_signature_passes_and_none_crashes(package: Path, key: Path) -> None:
    good = (package / SIGNATURE).read_bytes()
    for position in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[position] ^= 1
        (package / SIGNATURE).write_bytes(damaged)
        with pytest.raises(InputError):
            verify(package, public_key_file(key))


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"verificationMaterial": {"publicKey": {}}}'])
def test_a_signature_that_is_none_is_refused(package: Path, key: Path, content: str) -> None:
    (package / SIGNATURE).write_text(content)
    with pytest.raises(InputError, match=r"model\.sig"):
        verify(package, public_key_file(key))


def test_a_signature_says_nothing_but_names_and_hashes(package: Path) -> None:
    payload = json.loads(base64.b64decode(json.loads((package / SIGNATURE).read_text())["dsseEnvelope"]["payload"]))
    assert payload["predicateType"] == "https://model_signing/signature/v1.0"
    assert [entry["name"] for entry in payload["predicate"]["resources"]] == [
        "MLmodel",
        "artifacts/gan/weights.safetensors",
        "code/components/images.py",
        "serving.py",
    ]


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEY, raising=False)
    path = signing_key()
    assert path == tmp_path / DEFAULT_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first = path.read_bytes()
    assert signing_key().read_bytes() == first
    public_key_file(path).unlink()
    public = ec_private(path).public_key()
    signing_key()
    assert public_key_file(path).read_bytes() == public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["signing.pem", "signing.pub"]


def ec_private(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        pool.map(make_keys, [tmp_path / "keys" / "signing.pem"] * 8, chunksize=1)
    private = tmp_path / "keys" / "signing.pem"
    folder = tmp_path / "package"
    folder.mkdir()
    sign(folder, private)
    verify(folder, public_key_file(private))
    assert sorted(entry.name for entry in private.parent.iterdir()) == ["signing.pem", "signing.pub"]


def test_a_key_that_is_named_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, str(tmp_path / "typo.pem"))
    with pytest.raises(InputError, match=r"typo\.pem: not found; VITRINE_SIGNING_KEY must name"):
        signing_key()
    assert not (tmp_path / "typo.pem").exists()


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, package: Path) -> None:
    path = tmp_path / "keys" / "signing.pem"
    make_keys(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"mode 0640.*chmod 600"):
        sign(package, path)


def test_other_keys_are_refused(tmp_path: Path, package: Path) -> None:
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "curve": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, key in keys.items():
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(InputError, match="no private key on one of the curves"):
            sign(package, private)
        with pytest.raises(InputError, match="no public key on one of the curves"):
            verify(package, public)
    garbage = tmp_path / "garbage.pem"
    garbage.touch(mode=0o600)
    garbage.write_text("no key")
    with pytest.raises(InputError, match="cannot be read as a private key"):
        sign(package, garbage)
    with pytest.raises(InputError, match="cannot be read as a public key"):
        verify(package, garbage)
    with pytest.raises(InputError, match="cannot be read as a public key"):
        verify(package, tmp_path / "missing.pub")


def test_the_required_key_is_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)
    assert required_key() is None
    monkeypatch.setenv(REQUIRE, "")
    assert required_key() is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(REQUIRE, "keys/signing.pub")
    assert required_key() == Path.cwd() / "keys/signing.pub"
