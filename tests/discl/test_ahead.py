"""Items made ahead are the same items; errors, the end and an early close arrive in their place, in the thread."""

import threading
from contextlib import closing

import pytest

from discl.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_the_same_items_in_order(count):
    assert list(ahead(iter(range(50)), count)) == list(range(50))
    assert list(ahead([], count)) == []


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_than_so_many_are_made_ahead(count):
    made, enough = [], threading.Event()

    def items():
        for number in range(20):
            made.append(number)
            if len(made) == count:
                enough.set()
            yield number

    with closing(ahead(items(), count)) as source:
        for number in range(20):
            assert next(source) == number
            assert len(made) <= number + 1 + count
            if not number:
                assert enough.wait(60)


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_comes_after_the_items_before_it(count):
    def items():
        yield 1
        yield 2
        raise KeyError("three")

    source = ahead(items(), count)
    assert [next(source), next(source)] == [1, 2]
    with pytest.raises(KeyError, match="three"):
        next(source)


@pytest.mark.parametrize("count", [1, 5])
def test_closing_stops_the_thread_and_closes_the_items_in_it(count):
    threads, closed = set(), threading.Event()

    def items():
        try:
            number = 0
            while True:
                threads.add(threading.current_thread())
                yield number
                number += 1
        finally:
            threads.add(threading.current_thread())
            closed.set()

    source = ahead(items(), count)
    assert [next(source) for _ in range(7)] == list(range(7))
    source.close()
    assert closed.is_set()
    (thread,) = threads
    assert thread is not threading.current_thread() and not thread.is_alive()
