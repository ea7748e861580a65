"""An explanation as text: the verdict and its figures first, then where everything is to be found."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from components.glossary import shown
from components.registry.explaining import UNKNOWN, Explanation, Fact
from components.registry.figures import Figure

WIDTH = 100
"""Columns; only an address or a parameter may be longer, since nobody could follow or copy a broken one."""

HEAD = ("metric", "value", "95% interval", "real photos reach", "champion", "asked")
PLACES = {
    "version": ("page",),
    "code": ("git commit",),
    "data": ("dataset", "quality report"),
    "training": ("run",),
    "flow": ("flow run",),
    "artifacts": ("model", "run's files", "journal"),
}
"""By section, the facts that are shown with their addresses."""
LAST_DECISIONS = 5
NO_BREAK = "\N{NO-BREAK SPACE}"


def explained(found: Explanation) -> list[str]:
    """Lines of `WIDTH` columns."""
    standing, verdict = found.sections["version"], found.sections["verdict"]
    lines = [f"{found.name} version {found.version}: {_value(standing, 'status')}", ""]
    for fact in verdict:
        if fact.name not in ("failed", "protocol"):
            lines += _wrapped(fact.name, fact.value)
    lines += ["", *_figures(found.figures)]
    decisions = [fact for fact in found.sections["decisions"] if not fact.name.endswith("judged")]
    lines += ["", "What became of it" if decisions else "Nobody has decided on it"]
    for fact in decisions[-LAST_DECISIONS:]:
        lines += _wrapped(fact.name.split(" ", 1)[0], f"{fact.name.split(' ', 1)[1]}: {fact.value}")
    lines += ["", "Where to look", *_places(found)]
    params = [f"{fact.name}={fact.value}" for fact in found.sections["params"]]
    lines += ["", "Parameters" if params else "No parameters were noted", *_listed(params)]
    return [*lines, "", f"All of it: vitrine explain {found.name} {found.version} --json"]


def _value(facts: Iterable[Fact], name: str) -> str:
    return next((fact.value for fact in facts if fact.name == name), UNKNOWN)


def _wrapped(label: str, text: str) -> list[str]:
    start = f"  {label:<14} "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)) or [start.rstrip()]


def _listed(texts: Sequence[str]) -> list[str]:
    """As many in a line as fit; none is torn where its words could be taken for another's."""
    # A no-break space holds a text together until its lines are made.
    together = "  ".join(text.replace(" ", NO_BREAK) for text in texts)
    lines = textwrap.wrap(
        together, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    """Over all images in a table; of categories only what failed."""
    overall: dict[str, list[Figure]] = {}
    for figure in figures:
        if figure.category is None:
            overall.setdefault(figure.metric, []).append(figure)
    if not overall:
        yield "No figures were kept."
        return
    rows = [HEAD, *(row for checks in overall.values() for row in _rows(checks))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
    yield from _categories([figure for figure in figures if figure.category is not None])


def _rows(checks: Sequence[Figure]) -> Iterator[tuple[str, ...]]:
    """A metric's numbers with its first check, and below them what else was asked of it."""
    one, *others = checks
    yield (
        *(one.metric, shown(one.value), one.interval),
        *(_or_none(one.real_photos), _or_none(one.champion), _asked(one)),
    )
    for check in others:
        yield *[""] * (len(HEAD) - 1), _asked(check)


def _asked(check: Figure) -> str:
    if check.passed is None:
        return ""
    return f"{'champion' if check.kind == 'champion' else check.asked}: {'met' if check.passed else 'MISSED'}"


def _or_none(value: float | None) -> str:
    return "-" if value is None else shown(value)


def _categories(checks: Sequence[Figure]) -> Iterator[str]:
    if not checks:
        return
    missed = [check for check in checks if not check.passed]
    yield f"  By category {len(checks) - len(missed)} of {len(checks)} checks are met{':' if missed else '.'}"
    for check in missed:
        told = f"{shown(check.value)} ({check.interval}), asked: {check.asked}"
        yield from _wrapped("", f"{check.metric} of {check.category}: {told}")


def _places(found: Explanation) -> Iterator[str]:
    verdict = next((fact for fact in found.sections["verdict"] if fact.link), None)
    if verdict is not None:
        yield from _place("report", "", verdict.link)
    for section, names in PLACES.items():
        for fact in found.sections[section]:
            if fact.name in names:
                yield from _place(fact.name, fact.value if fact.value != fact.link else "", fact.link)


def _place(label: str, text: str, link: str | None) -> Iterator[str]:
    if text:
        yield from _wrapped(label, text)
    if link:
        yield f"  {'' if text else label:<14} {link}"
