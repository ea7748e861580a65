"""Where photos come from. A source opens, lists its photos without reading them, and reads what is asked for.

It lists the same photos in the same order every time, raises InputError if it cannot, and knows
nothing of the parts that ingest makes of them. A source's libraries are loaded only if it is used.
"""

from contextlib import AbstractContextManager

from components.settings import DataSettings
from components.sources.listing import Listing, Source


def _folder(settings: DataSettings) -> AbstractContextManager[Listing]:
    from components.sources import folder

    return folder.opened(settings)


def _archive(settings: DataSettings) -> AbstractContextManager[Listing]:
    from components.sources import archive

    return archive.opened(settings)


def _s3(settings: DataSettings) -> AbstractContextManager[Listing]:
    from components.sources import s3

    return s3.opened(settings)


def _fashion_mnist(settings: DataSettings) -> AbstractContextManager[Listing]:
    from components.sources import fashion_mnist

    return fashion_mnist.opened(settings)


SOURCES: dict[str, Source] = {
    "folder": _folder,
    "archive": _archive,
    "s3": _s3,
    "fashion-mnist": _fashion_mnist,
}
