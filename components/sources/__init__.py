"""Where photos come from. A source is a function from the settings to an iterator of photos.

It yields the same photos in the same order every time, raises InputError if it cannot, and
knows nothing of the parts that ingest makes of them.
"""

from collections.abc import Callable, Iterator

from components.raw import Photo
from components.settings import DataSettings
from components.sources import fashion_mnist

SOURCES: dict[str, Callable[[DataSettings], Iterator[Photo]]] = {
    "fashion-mnist": fashion_mnist.photos,
}
