"""The config's [data] table becomes a DataTable of checked images; one file per kind of data."""

import logging

import numpy as np

from discl.data import (
    cifar100_lt,
    csv_table,
    digits,
    imagefolder,
    imagenet_lt,
    inaturalist2018,
    iwildcam,
    packed,
)
from discl.data.columns import first_repeated
from discl.data.images import check_images
from discl.data.table import DataTable
from discl.errors import ConfigError, DataError

__all__ = ["KINDS", "DataTable", "checked", "load_data"]

log = logging.getLogger(__name__)

KINDS = {
    "digits-lt": digits.load,
    "digits-lq": digits.load_low_quality,
    "imagefolder": imagefolder.load,
    "csv": csv_table.load,
    "store": packed.load,
    "imagenet-lt": imagenet_lt.load,
    "cifar100-lt": cifar100_lt.load,
    "inaturalist2018": inaturalist2018.load,
    "iwildcam": iwildcam.load,
}


def load_data(config, check: bool = True) -> DataTable:
    """Read the table that `config` (DataConfig: kind, root, max_bad_share, allow_licenses) describes.

    check: look at every image; those that cannot be used are then in `.quarantined` with their reason. Raises
    ConfigError for a kind or a licence list that cannot be served, DataError for unusable data, RunFailed for too many
    bad images.
    """
    if config.kind not in KINDS:
        raise ConfigError(f"data.kind = {config.kind!r}; there are {', '.join(KINDS)}")
    table = KINDS[config.kind](config)
    _refuse_repeated(table)
    if config.allow_licenses:
        table = _allowed(table, config.allow_licenses)
    return checked(table, config.max_bad_share) if check else table


def checked(table: DataTable, max_bad_share: float) -> DataTable:
    """The table without the images that cannot be used; of a store's, whose images were checked when they came, all."""
    if not table.packed:
        table = check_images(table, max_bad_share)
    empty = [repr(table.class_names[label]) for label in np.flatnonzero(table.train_counts == 0)]
    if empty:
        log.warning(
            "%d classes have no training image: %s%s", len(empty), ", ".join(empty[:5]), ", ..." * (len(empty) > 5)
        )
    return table


def _refuse_repeated(table: DataTable) -> None:
    """An id names one image, of one split; lists may disagree."""
    found = first_repeated(table.ids)
    if found:
        row, earlier = (f"{table.places[at]}" if table.places else table.paths[at] for at in found)
        raise DataError(f"{row}: image {table.ids[found[0]]!r} is already in {earlier}; remove one of them")


def _allowed(table: DataTable, licenses) -> DataTable:
    column = next((table.columns[name] for name in ("license", "licence") if name in table.columns), None)
    if column is None:
        raise ConfigError("data.allow_licenses is set, but the data has no column 'license'; add it or unset the key")
    return table.take([row for row, license in enumerate(column) if license in licenses])
