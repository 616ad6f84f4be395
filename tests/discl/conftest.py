"""Tiny random-weight models, built once per test session; stores behind URLs, a bucket."""

import uuid
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder that holds `sd` (Stable Diffusion 1.x) and `clip` (open_clip), random weights."""
    from tests.tiny import tiny_clip, tiny_sd

    folder = tmp_path_factory.mktemp("models")
    tiny_sd(folder / "sd")
    tiny_clip(folder / "clip")
    return folder


@pytest.fixture
def fake_weights(monkeypatch):
    """The weights of a CLIP that no engine loads are those that the fake engine has."""
    monkeypatch.setattr("discl.judge.clip_digest", lambda name: "5" * 32)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Stores behind URLs without pauses, their folders below tmp_path, and `flaky://`."""
    import fsspec

    from discl.store import home, remote, remote_lease
    from tests.discl.remote_stores import Flaky

    monkeypatch.setattr(home, "PAUSES_S", (0.0,) * 12)
    monkeypatch.setattr(remote, "PAUSES_S", (0.0,) * 12)
    monkeypatch.setattr(remote_lease, "STALE_S", 0.2)
    monkeypatch.setattr(remote_lease.RemoteLease.__init__, "__defaults__", (10.0, 0.2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.chance, Flaky.dead = None, False


@pytest.fixture
def s3_server(monkeypatch):
    """A moto server on loopback, as werkzeug's object; clients find it."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    thread = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield thread._server
    thread.stop()


@pytest.fixture
def bucket(s3_server):
    """The URL of an empty bucket."""
    import fsspec

    name = f"bucket-{uuid.uuid4().hex}"  # moto keeps its buckets from server to server
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    fsspec.filesystem("s3").clear_instance_cache()
