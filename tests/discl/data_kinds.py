"""What the tests of data sets share: a config, an image file, a refusal."""

from types import SimpleNamespace

import pytest
from PIL import Image

from discl.data import load_data
from discl.errors import DataError


def config(kind, root, **keys):
    own = {"lists": "", "imbalance": 100, "upscaled": "", "names": ""}
    return SimpleNamespace(**{"kind": kind, "root": str(root), "max_bad_share": 0.0, "allow_licenses": []} | own | keys)


def save(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def refused(message, *args, **keys):
    """The error is one line that names file, row and what to do."""
    with pytest.raises(DataError, match=message) as caught:
        load_data(config(*args, **keys))
    assert "\n" not in str(caught.value)
