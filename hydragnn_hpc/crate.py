"""What an archive of a campaign states about its files: an RO-Crate (w3id.org/ro/crate/1.1) around a campaign's folder.

An archive is a campaign's folder without what only a run needs, and with ``ro-crate-metadata.json``, which lists every
file with its size and SHA-256. Whatever reads a campaign's folder also reads an archive, and first checks its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydragnn_hpc.errors import UserError

FILE = "ro-crate-metadata.json"
VERSION = "hydragnn_hpc archive 1"
VERSION_KEY = "schemaVersion"
"""The key of the entity ``ROOT`` that holds ``VERSION``."""
ROOT = "./"
CONFORMS_TO = "https://w3id.org/ro/crate/1.1"


@dataclass(frozen=True)
class ListedFile:
    """A file of an archive: its name within it, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: Path) -> ListedFile:
        """Return how a file of the archive ``root`` is listed."""
        return cls(str(path.relative_to(root)), path.stat().st_size, sha256_of(path))

    @classmethod
    def read(cls, entity: Mapping[str, Any]) -> ListedFile:
        """Return the file that an entity of the metadata lists."""
        return cls(str(entity["@id"]), int(entity["contentSize"]), str(entity["sha256"]))

    def entity(self) -> dict[str, str]:
        """Return its entity of the metadata."""
        own = {"@id": self.name, "@type": "File", "name": Path(self.name).name}
        return own | {"contentSize": str(self.size), "sha256": self.sha256}


def check_archive(root: Path, checksums: bool = False) -> bool:
    """Return whether a folder is an archive, after checking its files' sizes, and on request their checksums.

    Raises
    ------
    UserError
        If it is a file, or an archive of another version, or one of its files is missing, truncated or changed.
    """
    try:
        content = json.loads((root / FILE).read_bytes())
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        remedy = "unpack it, and give the folder that it holds" if root.suffix == ".zip" else "give a campaign's folder"
        raise UserError(f"{root} is a file; {remedy}") from error
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}; check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {root / FILE}: {error}; copy the archive again") from error
    for file in _listed(content, root):
        path = root / file.name
        try:
            size = path.stat().st_size
            if size != file.size:
                raise UserError(
                    f"archive {root}: {file.name} has {size:,} bytes instead of {file.size:,}; copy the archive again"
                )
            if checksums and sha256_of(path) != file.sha256:
                raise UserError(f"archive {root}: the checksum of {file.name} is wrong; copy the archive again")
        except FileNotFoundError as error:
            raise UserError(f"archive {root}: {file.name} is missing; copy the archive again") from error
        except OSError as error:
            raise UserError(
                f"archive {root}: cannot read {file.name}: {error.strerror}; check its permissions, or copy the archive"
                " again"
            ) from error
    return True


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _listed(content: Any, root: Path) -> list[ListedFile]:
    try:
        entities = {entity["@id"]: entity for entity in content["@graph"]}
        version = entities[ROOT].get(VERSION_KEY)
        if version == VERSION:
            return [ListedFile.read(e) for e in entities.values() if e["@type"] == "File"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{root / FILE} is not that of a campaign's archive: {error!r}; copy the archive again"
        ) from error
    raise UserError(
        f"archive {root}: it is '{version}', and this program reads '{VERSION}'; use the version that wrote it"
    )
