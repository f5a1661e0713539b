"""Open an HDF5 file to read it, also where the file system has no locks.

HDF5 locks what it opens, so that no other program writes into it meanwhile. Where the file system offers no locks it
does without: a store is written under another name and renamed, and one that is changed all the same is noticed by its
size, time and checksums.
"""

from pathlib import Path
from typing import Any

from conki_cli.system.readable import NOT_OFFERED, system_error_in


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file to read it.

    Returns:
        The `h5py.File`.
    """
    import h5py

    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        found = system_error_in(error)
        if found is None or found.errno not in NOT_OFFERED:
            raise
    return h5py.File(path, "r", locking=False)
