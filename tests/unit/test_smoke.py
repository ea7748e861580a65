"""The serving smoke test, on real packages: a good one, and some that are broken on purpose."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from components.packaging import weights_folder
from components.serving_answers import IMAGES, Answer
from components.signing import REQUIRE, make_keys, public_key_file, sign, verify
from components.smoke import TAIL, SmokeTest, _answers, _requests, smoke
from tests.packages import write_package
from tests.project import SOURCE

Broken = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("model"))


@pytest.fixture
def package(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "package"))


def codes(result: SmokeTest) -> list[str]:
    return sorted(reason.code for reason in result.reasons)


def edited(package: Path, name: str, old: str, new: str) -> None:
    text = (package / name).read_text()
    assert text.count(old) == 1
    (package / name).write_text(text.replace(old, new))


def test_a_real_package_passes_signed_and_is_left_as_it_was(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the caller's surroundings reaches the processes."""
    key = tmp_path / "signing.pem"
    make_keys(key)
    sign(package, key)
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    monkeypatch.chdir(SOURCE)
    result = smoke(package, public_key_file(key))
    assert result.reasons == ()
    assert result.passed
    assert result.images == 4 * 3 * IMAGES
    assert result.seconds > 0
    verify(package, public_key_file(key))


def test_an_unconditional_package_in_colour_passes(tmp_path: Path) -> None:
    result = smoke(write_package(tmp_path, conditions=False, channels=3))
    assert result.reasons == ()
    assert result.images == 4 * IMAGES


def test_pictures_that_are_wrong_each_have_their_code(package: Path) -> None:
    """A dress of other noise each time, a boot whose PNG is cut off, a bag of one grey."""
    edited(
        package,
        "serving.py",
        "        named = {name: row[name] for name in self.attributes}\n",
        "        named = {name: row[name] for name in self.attributes}\n"
        "        if row['category'] == 'dress':\n"
        "            import os\n"
        "            images = images ^ torch.frombuffer(bytearray(os.urandom(images.numel())), dtype=torch.uint8"
        ").reshape(images.shape)\n"
        "        if row['category'] == 'bag':\n"
        "            images = images * 0 + 7\n",
    )
    edited(
        package, "serving.py", '"png": _png(image)}', '"png": _png(image)[: 99 if row["category"] == "boot" else None]}'
    )
    result = smoke(package)
    assert codes(result) == ["CONSTANT_IMAGE", "INVALID_PNG", "NOT_DETERMINISTIC", "NOT_REPRODUCIBLE", "SEED_IGNORED"]
    named = {reason.code: reason.text for reason in result.reasons}
    assert named["CONSTANT_IMAGE"].startswith("category bag, seed 1")
    assert named["INVALID_PNG"].startswith("category boot, seed 1")
    assert named["NOT_DETERMINISTIC"].startswith("category dress, seed 1")
    assert named["NOT_REPRODUCIBLE"].startswith("category dress, seed 1")
    assert named["SEED_IGNORED"].startswith("category bag, seed 1")
    assert not result.passed


def test_a_package_with_another_size_and_other_bytes_per_process(package: Path) -> None:
    edited(package, "serving.py", "manual_seed(seed)", "manual_seed(seed + 2 * __import__('os').getpid())")
    edited(package, "serving.py", "picture(image_CHW)", "picture(image_CHW).resize((16, 32))")
    assert codes(smoke(package)) == ["NOT_REPRODUCIBLE", "WRONG_SIZE"]


def import_what_is_nowhere(package: Path) -> None:
    with (package / "code/components/images.py").open("a") as file:
        file.write("\nimport components.nowhere\n")


def import_more(package: Path) -> None:
    with (package / "code/components/images.py").open("a") as file:
        file.write("\nimport faiss\n")


def import_from_the_checkout(package: Path) -> None:
    shutil.rmtree(package / "code/components")
    text = (package / "serving.py").read_text()
    (package / "serving.py").write_text(f"import sys\nsys.path.insert(0, {str(SOURCE)!r})\n{text}")


def borrow_from_the_checkout(package: Path) -> None:
    """As a checkout that is installed would lend a module."""
    (package / "code/components/networks/dcgan.py").unlink()
    with (package / "code/components/networks/__init__.py").open("a") as file:
        file.write(f"\n__path__.append({str(SOURCE / 'components' / 'networks')!r})\n")


def crash(package: Path) -> None:
    edited(
        package,
        "serving.py",
        "rows = [image",
        "__import__('os').kill(__import__('os').getpid(), 11)\n        rows = [image",
    )


def refuse(package: Path) -> None:
    edited(package, "serving.py", "rows = [image", "raise ValueError('out of ideas')\n        rows = [image")


def lose_a_row(package: Path) -> None:
    edited(package, "serving.py", "return pd.DataFrame(rows, ", "return pd.DataFrame(rows[:-1], ")


@pytest.mark.parametrize(
    ("broken", "code", "said"),
    [
        (import_what_is_nowhere, "IMPORT_FAILED", "components.nowhere"),
        (import_more, "REQUIREMENT_MISSING", "faiss"),
        (import_from_the_checkout, "IMPORTED_FROM_ELSEWHERE", str(SOURCE)),
        (borrow_from_the_checkout, "IMPORTED_FROM_ELSEWHERE", "components.networks.dcgan came from"),
        (crash, "CRASHED", "status -11"),
        (refuse, "PREDICT_FAILED", "out of ideas"),
        (lose_a_row, "WRONG_ANSWER", "5 rows"),
    ],
)
def test_a_broken_package_fails_with_its_own_code(package: Path, broken: Broken, code: str, said: str) -> None:
    broken(package)
    result = smoke(package)
    assert codes(result) == [code]
    assert said in result.reasons[0].text


def run_program(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """What a process answers that runs this instead of the smoke test's own program."""
    (folder / "program.py").write_text(program)
    monkeypatch.setattr("components.smoke.PROGRAM", folder / "program.py")
    (answer,) = _answers(folder, folder / "key.pub", [[]], 60)
    return answer


def test_processes_know_the_key_and_of_the_callers_variables_the_machines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {"MLFLOW_TRACKING_URI", "PATHETIC", "AWS_SECRET_ACCESS_KEY"}
    for name in foreign:
        monkeypatch.setenv(name, "x")
    program = (
        "import json, os, pathlib, sys\npathlib.Path(sys.argv[3]).write_text(json.dumps({'known': dict(os.environ)}))"
    )
    known = run_program(tmp_path, program, monkeypatch).content["known"]
    assert known[REQUIRE] == str(tmp_path / "key.pub")
    assert known["PATH"] == os.environ["PATH"]
    assert not foreign & set(known)


def test_of_what_a_process_said_the_end_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = run_program(tmp_path, "print('a' * 5000 + ' the end')", monkeypatch).problem
    assert problem is not None
    assert problem.code == "CRASHED"
    assert problem.text == f"the process ended with status 0; it said: {'a' * (TAIL - 8)} the end"


def test_a_package_that_hangs_is_ended_with_all_that_it_started(package: Path) -> None:
    program = "import subprocess\nsubprocess.Popen(['sleep', '612'])\nsubprocess.run(['sleep', '613'])\n"
    (package / "code/components/__init__.py").write_text(program)
    started = time.monotonic()
    result = smoke(package, timeout=15)
    assert codes(result) == ["TIMEOUT"]
    assert "15 s" in result.reasons[0].text
    assert time.monotonic() - started < 120
    left = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline"])
        if p.info["cmdline"] in (["sleep", "612"], ["sleep", "613"])
    ]
    assert left == []


def test_weights_that_are_missing_or_altered_are_not_even_loaded(package: Path, tmp_path: Path) -> None:
    key = tmp_path / "signing.pem"
    make_keys(key)
    unsigned = smoke(package, public_key_file(key))
    assert codes(unsigned) == ["NOT_SIGNED"]
    sign(package, key)
    path = weights_folder(package) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert codes(smoke(package)) == ["WEIGHTS_ALTERED"]
    altered = smoke(package, public_key_file(key))
    assert codes(altered) == ["NOT_SIGNED", "WEIGHTS_ALTERED"]
    assert "weights.safetensors was altered" in str(altered.reasons)
    path.unlink()
    missing = smoke(package)
    assert codes(missing) == ["WEIGHTS_MISSING"]
    assert missing.images == 0
    (weights_folder(package) / "model.json").unlink()
    assert codes(smoke(package)) == ["LOAD_FAILED"]


def test_every_combination_is_asked_for_or_every_value() -> None:
    attributes = {"category": ("bag", "boot", "dress"), "colour": ("red", "blue")}
    assert len(_requests(attributes, 1, 6)) == 6
    few = _requests(attributes, 1, 5)
    assert [(row["category"], row["colour"]) for row in few] == [("bag", "red"), ("boot", "blue"), ("dress", "red")]
    assert _requests({}, 3, 64) == [{"n": IMAGES, "seed": 3}]
    many = _requests({f"a{index}": tuple("abcdefghij") for index in range(30)}, 1, 64)
    assert len(many) == 10
