"""Data sets on a shared file system: what other folders use of this one."""

from hydragnn_hpc.dataset.store.manifest import MANIFEST, Manifest, read_manifest, verify
from hydragnn_hpc.dataset.store.shared import (
    check_arrays,
    declared,
    folder_for,
    read,
    read_chunks,
    read_each,
    refuse_existing,
    write,
)

__all__ = [
    "MANIFEST",
    "Manifest",
    "check_arrays",
    "declared",
    "folder_for",
    "read",
    "read_chunks",
    "read_each",
    "read_manifest",
    "refuse_existing",
    "verify",
    "write",
]
