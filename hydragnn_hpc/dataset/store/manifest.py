"""The manifest of a data set: what every reader checks before anything opens the data.

It lists the size and SHA-256 of every file, the shape, dtype and unit of every array, what the data set was made from
and how it is scaled, and is itself sealed with a checksum.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.validation import one_line

SCHEMA = 1
MANIFEST = "manifest.json"
AGAIN = "copy it again from its source, or prepare it again"


def is_there(path: Path) -> bool:
    """Return whether ``path`` exists; raise a :class:`UserError` if that cannot be determined."""
    try:
        return path.exists()
    except OSError as error:  # no permission, or an invalid name
        raise UserError(f"cannot access {path}: {error.strerror or error}; check the path") from error


def read_manifest(path: Path) -> Manifest:
    """Read and check ``manifest.json``; ADIOS2 is not involved.

    Raises
    ------
    UserError
        If ``path`` is not a data set, or its manifest is damaged or of another version.
    """
    file = path / MANIFEST
    if not is_there(path):
        raise UserError(f"no such data set: {path}; 'hydragnn-hpc data prepare' makes one")
    if not path.is_dir():
        raise UserError(f"{path} is a file; a data set is a folder that 'hydragnn-hpc data prepare' makes")
    if not is_there(file):
        raise UserError(
            f"{path} is not a complete data set of this program: {MANIFEST} is missing; copy or prepare it again"
        )
    try:
        text = file.read_bytes().decode("utf-8")
        content = json.loads(text)
        schema = content.get("schema")
        seal = content.pop("seal", None)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); {AGAIN}") from error
    # The seal covers the values; comparing the text as well detects changed whitespace and duplicate keys.
    whole = json.dumps({**content, "seal": seal}, indent=1, ensure_ascii=False)
    fits = seal == seal_of(content) and whole == text
    if schema != SCHEMA and (fits or seal is None):
        raise UserError(f"{file}: format version {schema!r}, this program reads {SCHEMA}; prepare the data again")
    if not fits:
        raise UserError(f"{file} is damaged (its checksum does not match); {AGAIN}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file} cannot be used: {one_line(error, Manifest)}; prepare the data again") from error


def verify(path: Path, manifest: Manifest) -> None:
    """Check every file of the data set against the manifest: presence, size, SHA-256. Other files are ignored.

    Raises
    ------
    UserError
        Naming the first file that does not match.
    """
    for name, fact in manifest.files.items():
        file = path / name
        try:
            if not file.is_file():
                raise UserError(f"{file} is missing; {AGAIN}")
            size = file.stat().st_size
            if size != fact.bytes:
                raise UserError(f"{file} has {size} bytes, expected {fact.bytes}; {AGAIN}")
            if sha256_of(file) != fact.sha256:
                raise UserError(f"{file} is damaged (its SHA-256 does not match the manifest); {AGAIN}")
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror or error}; {AGAIN}") from error


def seal_of(content: dict[str, Any]) -> str:
    """Return the checksum that protects a manifest's own content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
