"""Which code a run has run."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError


@dataclass(frozen=True)
class Revision:
    """The checkout's state.

    Attributes:
        commit: full hash of HEAD.
        changed: files that differ from it or are not in it, dvc.lock left out: it has a tag of its own.
        url: the commit's page, if the remote `origin` is on a host that is known to have such pages.
    """

    commit: str
    changed: tuple[str, ...]
    url: str | None = None

    @property
    def differing(self) -> str:
        """The first few changed files, for a message; empty if there are none."""
        return ", ".join(self.changed[:5]) + (" and more" if len(self.changed) > 5 else "")


def read_revision() -> Revision:
    """Commit of the working directory's checkout, and what is not committed.

    Raises:
        InputError: this is no git repository, or it has no commit.
    """
    commit = _git("rev-parse", "HEAD").strip()
    status = _git("status", "--porcelain", "--untracked-files=normal").splitlines()
    changed = tuple(sorted(line[3:] for line in status if line[3:] != "dvc.lock"))
    remotes = _git("remote").split()
    origin = _git("remote", "get-url", "origin").strip() if "origin" in remotes else ""
    return Revision(commit, changed, commit_page(origin, commit))


def commit_page(remote: str, commit: str) -> str | None:
    """Address of a commit's page on GitHub, GitLab or Bitbucket; None for a remote elsewhere.

    Args:
        remote: as git has it: git@host:owner/name.git, or an address that may hold a password, which is left out.
    """
    found = re.fullmatch(
        r"(?:https?://|ssh://)?(?:[^@/]*@)?(github\.com|gitlab\.com|bitbucket\.org)[:/](.+?)(?:\.git)?/?", remote
    )
    if found is None:
        return None
    host, name = found.groups()
    middle = {"github.com": "commit", "gitlab.com": "-/commit", "bitbucket.org": "commits"}[host]
    return f"https://{host}/{name}/{middle}/{commit}"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise InputError("git is not installed; every model version names the commit it was made from") from None
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"{Path.cwd()}: git cannot say which commit this is ({error.stderr.strip().splitlines()[0]}); every model "
            "version names the commit it was made from. Clone the project with git, or make this folder a "
            "repository: git init && git add --all && git commit -m 'Start'"
        ) from None


def lock_digest() -> str:
    """SHA-256 of dvc.lock: the exact code, data and parameters of every stage."""
    path = Path("dvc.lock")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
