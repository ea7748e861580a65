"""The model card: what a model is, what it was made from, how good it is and where it is weak, in Markdown.

In the order of Mitchell et al., 2018, arXiv:1810.03993. Everything stands in the facts that are handed over:
what these do not know, the card calls unknown.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.generative import CARD, WEIGHTS
from components.glossary import shown, shown_interval, told
from components.measurement import Estimate
from components.model_card.facts import ModelFacts
from components.model_card.limits import limits_of
from components.model_card.markdown import code, link, plain, table
from components.report.protocols import in_words

UNKNOWN = "unknown"


def model_card(facts: ModelFacts) -> str:
    """The card as Markdown."""
    title = facts.name or facts.card.family
    sections = [
        f"# {plain(title)}{f', version {plain(facts.version)}' if facts.version else ''}",
        _verdict(facts),
        "## Model details",
        _details(facts),
        "## Intended use",
        _use(facts),
        "## Factors",
        _factors(facts),
        "## Metrics and evaluation data",
        _protocol(facts),
        "## Training data",
        _data(facts),
        "## Training",
        _training(facts),
        "## Results",
        _results(facts),
        "## Copying, licences and people",
        _ethics(facts),
        "## Limits",
        "\n".join(f"- {plain(limit)}" for limit in limits_of(facts.measurement, _test_counts(facts))),
    ]
    if facts.pictures:
        sections += ["## Pictures", "\n\n".join(f"![{plain(words)}]({file})" for file, words in facts.pictures)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(facts: ModelFacts) -> str:
    if facts.verdict is None:
        return "**Gate: unknown.** No verdict was given."
    reasons = [f"- {code(reason['code'])}: {plain(reason['text'])}" for reason in facts.verdict["reasons"]]
    checks = facts.verdict["checks"]
    passed = facts.verdict["verdict"] == "PASSED"
    line = f"**Gate: {'passed' if passed else 'failed'}**, {len(checks)} checks, {_compared(facts.champion, checks)}."
    return "\n".join([line, *([""] if reasons else []), *reasons])


def _compared(champion: str | None, checks: Sequence[Mapping[str, Any]]) -> str:
    if champion is None:
        return "compared with no champion"
    # A policy need not ask for it, and a champion may be one that could not be measured.
    compared = any(check["kind"] == "champion" for check in checks)
    return f"{'' if compared else 'not '}compared with champion version {plain(champion)}"


def _details(facts: ModelFacts) -> str:
    channels, height, width = facts.card.image_shape
    rows = [
        ("Family", f"{code(facts.card.family)}: {plain(facts.description)}"),
        ("Images", f"{width} x {height} pixels, {'grey' if channels == 1 else 'colour'}"),
        ("Conditions", plain(", ".join(facts.card.attributes)) or "none: the model is unconditional"),
        ("Size", f"{facts.numbers:,} numbers in {WEIGHTS}"),
        ("Weights", f"SHA-256 {code(facts.card.weights_sha256)}"),
        ("Signature", plain(facts.signature) if facts.signature else UNKNOWN),
    ]
    settings = json.dumps(facts.card.settings, indent=2, ensure_ascii=False)
    return "\n".join([table(("", ""), rows), "", f"Settings, as {CARD} holds them:", "", "```json", settings, "```"])


def _use(facts: ModelFacts) -> str:
    columns = [*facts.card.attributes, "n", "seed"]
    served = (
        f"It makes product images for the conditions listed below, and for no others. Served by MLflow, it takes the "
        f"columns {', '.join(code(column) for column in columns)} and gives PNG files; the same row gives the same "
        "bytes. A generated image is no photo of an article."
    )
    return served + " Any use beyond that was neither tested nor intended."


def _factors(facts: ModelFacts) -> str:
    if not facts.card.attributes:
        return "None: the model is unconditional, and nothing was measured by category."
    rows = [(plain(name), plain(", ".join(values))) for name, values in facts.card.attributes.items()]
    return table(("condition", "values"), rows)


def _protocol(facts: ModelFacts) -> str:
    if facts.measurement is None:
        return "Not measured, or the measurement could not be read."
    rows = [(plain(label), plain(words)) for label, words in in_words(facts.measurement.protocol)]
    return table(("", ""), rows)


def _data(facts: ModelFacts) -> str:
    data = facts.data
    same = data is not None and data.digest == facts.card.dataset_digest
    if data is None or not same:
        found = f" The data at hand is another version, {code(data.digest)}." if data is not None else ""
        return f"Data set {code(facts.card.dataset_digest)}; its counts, licences and sources are unknown.{found}"
    rows = [(plain(name), *(f"{count:,}" for count in counts.values())) for name, counts in data.by_category.items()]
    rows.append(("all", *(f"{count:,}" for count in data.counts.values())))
    derived = (
        f"Told from the pixels for photos that had none given: {plain(', '.join(data.derived))}."
        if data.derived
        else ""
    )
    lines = [
        f"Data set {code(data.digest)}.",
        table(("category", *data.counts), rows),
        f"Licences of the photos collected: {_listed(data.licenses)}.",
        f"Sources of the photos collected: {_listed(data.sources)}.",
        derived,
    ]
    return "\n\n".join(line for line in lines if line)


def _listed(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return UNKNOWN
    named = {"none given" if name == "(none)" else name: count for name, count in counts.items()}
    return ", ".join(f"{plain(name)} ({count:,})" for name, count in named.items()) or "none"


def _training(facts: ModelFacts) -> str:
    training = facts.training
    rows = [
        ("Images seen", UNKNOWN if training.images_seen is None else f"{training.images_seen:,}, repeats counted"),
        ("Seed", UNKNOWN if training.seed is None else str(training.seed)),
        ("Git commit", UNKNOWN if training.git_commit is None else code(training.git_commit)),
        ("Training run", link("in MLflow", training.run_url) or UNKNOWN),
        ("Flow run", link("in Prefect", training.flow_url) or UNKNOWN),
    ]
    return table(("", ""), rows)


def _results(facts: ModelFacts) -> str:
    if facts.measurement is None:
        return "Unknown."
    header = ("metric", "value", "95% interval", "real photos reach", "better")
    rows = [
        (f"{plain(told(name).title)} {code(name)}", *_shown(name, found), told(name).better or UNKNOWN)
        for name, found in facts.measurement.metrics.items()
    ]
    parts = [
        table(header, rows),
        "*Real photos reach*: measured of real photos, training or held-out ones, in place of generated images.",
    ]
    by_category = facts.measurement.by_category
    if by_category:
        metrics = list(dict.fromkeys(name for found in by_category.values() for name in found))
        cells = [
            (plain(category), *(_cell(name, found.get(name)) for name in metrics))
            for category, found in by_category.items()
        ]
        parts.append(table(("category", *(code(name) for name in metrics)), cells))
    return "\n\n".join(parts)


def _shown(name: str, found: Estimate) -> tuple[str, str, str]:
    interval = shown_interval(name, found.interval)
    return shown(found.value), interval, UNKNOWN if found.floor is None else shown(found.floor)


def _cell(name: str, found: Estimate | None) -> str:
    if found is None:
        return "missing"
    value, interval, _ = _shown(name, found)
    return f"{value} ({interval})"


def _ethics(facts: ModelFacts) -> str:
    metrics = facts.measurement.metrics if facts.measurement is not None else {}
    copying = [
        f"{told(name).title.lower()} {_cell(name, found)}" for name, found in metrics.items() if _is_copying(name)
    ]
    lines = [
        f"Copies of training photos: {'; '.join(copying) or UNKNOWN}.",
        "What the licences listed above allow is for who uses the images to judge. Whether photos show people, "
        "trademarks or protected designs was not recorded: unknown.",
    ]
    return "\n\n".join(lines)


def _is_copying(metric: str) -> bool:
    return told(metric).group == "Copying"


def _test_counts(facts: ModelFacts) -> dict[str, dict[str, int]]:
    known = facts.data is not None and facts.data.digest == facts.card.dataset_digest
    return facts.data.by_category if known and facts.data is not None else {}
