"""Markdown from texts that come from outside: nothing in them becomes markup."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit


def plain(text: str) -> str:
    """A text as one line that shows as it is."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", line)


def code(text: str) -> str:
    """A text as one line of code, also within a table."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\u00a6")
    return f"`{line}`" if line else ""


def link(text: str, url: str | None) -> str:
    """A link to the web; nothing of another address."""
    if url is None or urlsplit(url).scheme not in ("http", "https"):
        return ""
    return f"[{plain(text)}]({quote(url, safe=':/?#@&=+,;%~-._')})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
