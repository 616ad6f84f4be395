"""A write that the system refused in, what the user can do about it out: how much room is left, and where."""

import errno
import os
from contextlib import suppress
from pathlib import Path


def remedy(error: BaseException, place: str | os.PathLike) -> str:
    """The end of a message about a full disk: the room that is left around `place`, what to do. "" for other errors."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    with suppress(OSError):  # what explains an error must not take its place
        return f"; {_left(Path(place).absolute())}; make room there or move to a larger disk"
    return "; make room there or move to a larger disk"


def _left(place: Path) -> str:
    folder = next(each for each in (place, *place.parents) if each.is_dir())
    disk = os.statvfs(folder)
    if disk.f_files and not disk.f_favail:
        return f"the disk of {folder} takes no further file (it has no free inode)"
    free, size = (blocks * disk.f_frsize / 1e6 for blocks in (disk.f_bavail, disk.f_blocks))
    return f"{free:,.1f} of {size:,.1f} MB are free on the disk of {folder}"
