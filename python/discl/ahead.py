"""Items that a thread makes before they are asked for."""

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], count: int) -> Generator[Item]:
    """The same items in order, of which a thread makes up to `count` ahead; 0: there is no thread.

    What the items raise comes after those before it. Closing the iterator waits for the item that is being made, and
    closes `items` if they are a generator: in the thread, which alone touches them.
    """
    if not count:
        yield from items
        return
    made: SimpleQueue[tuple[list[Item], BaseException | None]] = SimpleQueue()
    room, stopped = threading.Semaphore(count), threading.Event()

    def work() -> None:
        source = iter(items)
        try:
            while room.acquire() and not stopped.is_set():
                made.put(([next(source)], None))
        except BaseException as error:  # it belongs to whoever iterates
            made.put(([], error))
        finally:
            if hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=work, name="discl-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is None:
                yield item.pop()
                room.release()
            elif isinstance(error, StopIteration):
                return
            else:
                raise error
    finally:
        stopped.set()
        room.release()
        thread.join()
