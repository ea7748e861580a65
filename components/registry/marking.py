"""Writes an override into what was logged about a version: its report and its model card."""

import html
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from components.registry.entries import Judged, Overridden, as_markdown
from components.registry.weights import model_version

PAGE, CARD = "report.html", "model_card.md"
"""In the run of the version's training, in `folder_of` it."""


def folder_of(name: str, version: str, digest: str) -> str:
    """Where a run keeps what people look at about a verdict on a version: a later one leaves it as it is.

    Args:
        digest: of the verdict, see `components.registry.entries.digest_of`.
    """
    return f"versions/{name}/{version}/{digest[:8]}"


def mark_override(name: str, judged: Judged, override: Overridden) -> None:
    """Puts an override of a FAILED verdict on top of its page and card, where there are any without it."""
    run_id = model_version(name, judged.version).tags.get("vitrine.mlflow_run")
    if run_id is None:
        return
    folder = folder_of(name, judged.version, judged.digest)
    logged = {Path(file.path).name for file in MlflowClient().list_artifacts(run_id, folder)}
    with tempfile.TemporaryDirectory() as scratch:
        for file, marked in ((PAGE, _marked_page), (CARD, _marked_card)):
            if file in logged:
                path = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{folder}/{file}", dst_path=scratch))
                text = path.read_text(encoding="utf-8")
                if (new := marked(text, override)) != text:
                    path.write_text(new, encoding="utf-8")
                    MlflowClient().log_artifact(run_id, str(path), folder)


def _marked_page(page: str, override: Overridden) -> str:
    who, until, why = (html.escape(text) for text in (override.who, override.until, override.why))
    told = f"<b>Overridden by {who} until {until}:</b> {why}<br>The verdict itself stays as it is: failed."
    banner = f'<div class="banner">{told}</div>'
    return page if banner in page else page.replace("</header>", f"</header>\n{banner}", 1)


def _marked_card(card: str, override: Overridden) -> str:
    who, until, why = (as_markdown(text) for text in (override.who, override.until, override.why))
    note = f"> **Overridden** by {who} until {until}: {why}\n"
    title, rest = card.split("\n", 1)
    return card if note in card else f"{title}\n\n{note}{rest}"
