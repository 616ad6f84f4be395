"""A bucket that answers 503, not at all, late or after half an upload: nothing is lost, nothing is there twice."""

import random
import socket
import time
from collections import Counter

import fsspec
import pytest

from discl.store import Store, verify
from discl.store.forget import forget
from discl.store.resize import compact
from tests.discl.remote_stores import fetched, strangers, write
from tests.discl.store_samples import check

pytestmark = pytest.mark.usefixtures("quick")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
LATE_S = 1.0


class Faults:
    """Stands before moto's application and spoils some requests, by `chance`; none while that is None."""

    def __init__(self, app):
        self.app, self.chance, self.done = app, None, Counter()

    def __call__(self, environ, start_response):
        kind = self._draw(environ["REQUEST_METHOD"])
        self.done[kind] += 1
        if kind == "503":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if kind == "torn":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            return self._hang_up(environ, start_response)
        answer = self.app(environ, start_response)
        if kind == "answer lost":
            return self._hang_up(environ, lambda *_: None)
        if kind == "timeout":
            time.sleep(2 * LATE_S)
        return answer

    def _draw(self, method: str) -> str:
        share = self.chance.random() if self.chance else 1.0
        kinds = ("503", "torn", "answer lost") if method in ("PUT", "POST", "DELETE") else ("503",)
        if share < 0.01 and self.done["timeout"] < 3:
            return "timeout"
        return kinds[int(share / 0.08)] if share < 0.08 * len(kinds) else "fine"

    def _hang_up(self, environ, start_response):
        start_response("200 OK", [])  # goes nowhere
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return []


@pytest.fixture
def faults(bucket, s3_server, monkeypatch):
    """Before the bucket's server; s3fs waits LATE_S for an answer, and tries again by itself as it always does."""
    wait = {"read_timeout": LATE_S, "connect_timeout": LATE_S, "retries": {"max_attempts": 0}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": wait})
    fsspec.filesystem("s3").clear_instance_cache()
    s3_server.app = Faults(s3_server.app)
    return s3_server.app


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_s3_faults_lose_nothing(bucket, faults, tmp_path, seed):
    url = f"{bucket}/store"
    faults.chance = random.Random(seed)
    write(url, range(15), tmp_path / "one")
    write(url, range(25), tmp_path / "one")
    compact(url, 10_000_000)
    faults.chance = None
    check(Store(url), 25)
    assert verify(url) == [] and strangers(url) == [] and len(Store(url).shards) == 1
    faults.chance = random.Random(seed + 1)
    assert forget(url, ["twin"]) == 25
    faults.chance = None
    assert len(Store(url)) == 0 and verify(fetched(url, tmp_path)) == [] and strangers(url) == []
    print(faults.done)
    assert min(faults.done[kind] for kind in ("503", "torn", "answer lost")) > 0
