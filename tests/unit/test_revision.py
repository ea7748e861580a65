from pathlib import Path

import pytest

from components import revision
from components.errors import InputError
from tests.project import commit, git


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The folder above might be a repository.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    (checkout / "code.py").write_text("one")
    commit(checkout, "Start")
    found = revision.read_revision()
    assert found.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert found.changed == ()


def test_changed_and_new_files_are_named_but_not_the_lock(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    (checkout / "code.py").write_text("one")
    commit(checkout, "Start")
    for name in ("code.py", "new.py", "dvc.lock"):
        (checkout / name).write_text("two")
    assert revision.read_revision().changed == ("code.py", "new.py")


def test_without_a_repository_it_says_how_to_make_one(checkout: Path) -> None:
    with pytest.raises(InputError, match=r"not a git repository.*git init && git add --all && git commit"):
        revision.read_revision()
    assert checkout.exists()


def test_without_a_commit_it_says_the_same(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    with pytest.raises(InputError, match="git commit"):
        revision.read_revision()


def test_without_git_it_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(InputError, match="git is not installed"):
        revision.read_revision()


def test_the_lock_digest_follows_the_lock(checkout: Path) -> None:
    assert revision.lock_digest() == ""
    (checkout / "dvc.lock").write_text("one")
    one = revision.lock_digest()
    (checkout / "dvc.lock").write_text("two")
    assert len(one) == 64
    assert revision.lock_digest() != one


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("git@github.com:shop/vitrine.git", "https://github.com/shop/vitrine/commit/abc"),
        ("https://anna:secret@github.com/shop/vitrine.git", "https://github.com/shop/vitrine/commit/abc"),
        ("https://gitlab.com/shop/models/vitrine", "https://gitlab.com/shop/models/vitrine/-/commit/abc"),
        ("ssh://git@bitbucket.org/shop/vitrine.git", "https://bitbucket.org/shop/vitrine/commits/abc"),
        ("/srv/git/vitrine.git", None),
        ("https://git.shop.example/vitrine.git", None),
        ("", None),
    ],
)
def test_a_commits_page_is_known_of_hosts_that_have_one(remote: str, page: str | None) -> None:
    assert revision.commit_page(remote, "abc") == page


def test_the_remote_gives_the_page(checkout: Path) -> None:
    git(checkout, "init", "--quiet")
    (checkout / "code.py").write_text("one")
    commit(checkout, "Start")
    assert revision.read_revision().url is None
    git(checkout, "remote", "add", "origin", "https://anna:secret@github.com/shop/vitrine.git")
    found = revision.read_revision()
    assert found.url == f"https://github.com/shop/vitrine/commit/{found.commit}"
