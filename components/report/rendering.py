"""Fills the templates of this folder: whatever they show is escaped, and a name they miss is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from components.files import written_whole


def rendered(template: str, sections: Mapping[str, Any]) -> str:
    """A template of this folder, filled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(sections)


def write_page(path: Path, template: str, sections: Mapping[str, Any]) -> None:
    """Writes a filled template; names that are no Unicode text are shown with replacement characters."""
    with written_whole(path) as temporary:
        temporary.write_bytes(rendered(template, sections).encode("utf-8", "replace"))
