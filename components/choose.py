"""Points params.yaml at somebody's own photos: `make run SOURCE=/path/to/photos`.

The first time, the settings made for Fashion-MNIST give way to those of presets/photos.yaml. Later
only the place changes: whatever was tuned since stays.
"""

import argparse
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.errors import InputError
from components.files import written_whole
from components.settings import PARAMS_FILE, load_settings, parse_settings
from components.stage import explained_errors

PRESET = Path(__file__).parent / "presets" / "photos.yaml"
KEPT = Path(".vitrine/params")
"""Where earlier contents of params.yaml are kept: it may hold what is in no commit."""


def place_of(source: str) -> dict[str, Any]:
    """The keys of section `data` that make a folder, an archive or an s3:// prefix the source.

    Raises:
        InputError: there is no such folder or file, or it is none of these.
    """
    if source.startswith("s3://"):
        return {"source": "s3", "path": None, "s3": {"url": source}}
    path = Path(source).expanduser()
    if path.is_dir():
        return {"source": "folder", "path": str(path.resolve()), "s3": {"url": None}}
    if not path.exists():
        raise InputError(
            f"SOURCE: found {source!r}, there is no such folder or file; allowed are a folder, a zip or tar file, "
            "and s3://bucket/prefix"
        )
    if not path.is_file() or not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise InputError(f"SOURCE: {source!r} is neither a folder nor a zip or tar file nor s3://bucket/prefix")
    return {"source": "archive", "path": str(path.resolve()), "s3": {"url": None}}


def choose_source(params: Path, source: str) -> list[str]:
    """Writes the source, and the photos' preset if the source was Fashion-MNIST; keeps comments and order.

    Returns:
        The keys whose values changed, with dots; empty if params.yaml said so already.

    Raises:
        InputError: the source cannot be used, or params.yaml cannot.
    """
    place = place_of(source)
    before = load_settings(params)
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    # By itself it writes nothing for null, and keys that did not change would show in the diff.
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    text = params.read_text(encoding="utf-8")
    content = yaml.load(text)
    changed: list[str] = []
    if before.data.source == "fashion-mnist":
        changed += _merge(content, YAML().load(PRESET.read_text(encoding="utf-8")))
    changed += _merge(content, {"data": place})
    if changed:
        buffer = io.StringIO()
        yaml.dump(content, buffer)
        parse_settings(buffer.getvalue(), str(params))
        _keep(text)
        with written_whole(params) as temporary:
            temporary.write_text(buffer.getvalue(), encoding="utf-8")
    return changed


def _keep(text: str) -> None:
    path = KEPT / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _merge(content: Any, changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Sets leaves in place; a list, or a section that the other lacks, is replaced as a whole."""
    changed = []
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(content.get(key), Mapping) and value:
            changed += _merge(content[key], value, f"{name}.")
        elif key not in content or content[key] != value:
            content[key] = value
            changed.append(name)
    return changed


def _told(changed: Sequence[str]) -> Iterator[str]:
    """Changed keys by section, as `prepare: size, crop_margin`."""
    by_section: dict[str, list[str]] = {}
    for name in changed:
        section, _, rest = name.partition(".")
        by_section.setdefault(section, []).append(rest)
    for section, names in by_section.items():
        yield f"  {section}: {', '.join(names)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="settings (default: %(default)s)")
    parser.add_argument("source", help="a folder, a zip or tar file, or s3://bucket/prefix")
    args = parser.parse_args(argv)
    with explained_errors():
        changed = choose_source(args.params, args.source)
        if not changed:
            print(f"{args.params}: the source is {args.source} already")
            return
        print(f"{args.params}: now says that the photos are in {args.source}; changed:")
        print("\n".join(_told(changed)))
        print(
            f"`git diff {args.params}` shows it, `git checkout {args.params}` takes it back (what was there is kept "
            f"in {KEPT}/); commit it, and the nightly run trains on these photos"
        )


if __name__ == "__main__":
    main()
