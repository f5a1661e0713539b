"""Open an HDF5 file for reading, even if the file system has no locks.

HDF5 locks the files that it opens, so that no other program writes to them meanwhile. If the file system does not
support locks, files are opened without: stores are written under another name and renamed, and any other change is
detected by size, time and checksums.
"""

from pathlib import Path
from typing import Any

from conki_cli.system.readable import NOT_OFFERED, system_error_in


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

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
