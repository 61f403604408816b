"""An archive of a campaign: tables, models, configuration and provenance, as an RO-Crate to publish."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydragnn_hpc
from hydragnn_hpc import crate
from hydragnn_hpc.atomic import new_folder, storage_errors, write_json, written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import ProgressCallback
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.document.provenance import provenance
from hydragnn_hpc.report.results.live import read_live
from hydragnn_hpc.report.results.load import Results, load
from hydragnn_hpc.report.write import write_report

_FORMATS = {
    ".npz": "application/zip", ".pt": "application/zip", ".json": "application/json", ".csv": "text/csv",
    ".yaml": "application/yaml", ".txt": "text/plain", ".jsonl": "application/jsonl",
}  # fmt: skip
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold: the same bytes at any time


def write_archive(
    out: Path, to: Path, license_text: str = "not stated", progress: ProgressCallback = lambda done, total: None
) -> int:
    """Write an archive of the folder ``out`` to ``to``: a folder or, where the name ends in ``.zip``, one file.

    The archive is a campaign's folder, with a report of its own, and without checkpoints, jobs and workers' logs.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    UserError
        If ``out`` holds no campaign or cannot be read, no member has finished, a run is or may be active, or ``to``
        exists or cannot be written.
    """
    if to.exists():
        raise UserError(f"{to} exists; give another name, or remove it")
    results = load(out)
    live = read_live(results.folder)
    if live.active is None:
        raise UserError(f"{live.problem}; make the archive when this file can be read, or is removed")
    if live.active:
        raise UserError(f"{out}: a run is active; make the archive when it has ended")
    if not any(results.finished_by_variant.values()):
        raise UserError(f"{out}: no member has finished; see 'hydragnn-hpc status {out}'")
    is_zip = to.suffix.lower() == ".zip"
    folder = to.with_suffix("") if is_zip else to
    if is_zip and folder.exists():
        raise UserError(f"{folder} exists, the folder that {to.name} would hold; give another name, or remove it")
    with new_folder(folder) as made:
        for source in _files(results):
            _copy(source, made / source.relative_to(results.folder.root))
        write_report(made, progress)
        write_json(made / crate.FILE, _metadata(results, made, license_text))
    if is_zip:
        try:
            _zip(folder, to)
        finally:  # also on a full disk: a folder that is left would prevent another attempt
            shutil.rmtree(folder)
        return to.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _files(results: Results) -> Iterator[Path]:
    """Yield the files to be copied, of those that the archive may hold and that exist."""
    own: CampaignFolder = results.folder
    paths = [own.campaign, own.dataset, own.test_set, own.validation_set, own.remarks, own.rungs, own.run, own.events]
    for member in results.members:
        files = own.member(member.variant, member.replica)
        paths += [files.failure, files.log]
        if member.result:
            paths += [files.result, files.history, files.model, files.predictions, files.validation, files.features]
    yield from (path for path in paths if path.is_file())


def _copy(source: Path, copy: Path) -> None:
    try:
        stream = source.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; check its permissions, and try again") from error
    with stream, storage_errors(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as target:
            shutil.copyfileobj(stream, target)


def _metadata(results: Results, made: Path, license_text: str) -> dict[str, Any]:
    """Return ``ro-crate-metadata.json``; the report, which can be written again, is listed without sizes."""
    paths = sorted(p for p in made.rglob("*") if p.is_file() and made / "report" not in p.parents)
    files = [_file(path, made) for path in paths]
    done = [m.result for m in results.members if m.result]
    sessions = [session for result in done for session in result.sessions]  # none of imported models
    name = results.campaign.name
    tasks = ", ".join(f"{task} ({s.level}-level {s.field})" for task, s in results.campaign.tasks.items())
    program = {
        "@id": "#hydragnn_hpc",
        "@type": "SoftwareApplication",
        "name": "hydragnn_hpc",
        "softwareVersion": hydragnn_hpc.__version__,
    }
    root = {
        "@id": crate.ROOT,
        "@type": "Dataset",
        "name": f"Campaign {name}",
        "description": f"Ensembles of graph neural networks that predict {tasks}: {len(done)} trained members of"
        f" {len(results.members)}, their predictions, errors and the report.",
        "datePublished": datetime.now(UTC).date().isoformat(),
        "license": license_text,
        crate.VERSION_KEY: crate.VERSION,
        "keywords": [f"{key}: {value}" for key, value in provenance(results).items()],
        "hasPart": [{"@id": file["@id"]} for file in files] + [{"@id": "report/"}],
    }
    trained: dict[str, Any] = {
        "@id": "#training",
        "@type": "CreateAction",
        "name": "Training of the members",
        "instrument": {"@id": program["@id"]},
        "result": {"@id": crate.ROOT},
    }
    if sessions:
        trained |= {"startTime": min(s.started for s in sessions), "endTime": max(s.ended for s in sessions)}
    descriptor = {
        "@id": crate.FILE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": crate.CONFORMS_TO},
        "about": {"@id": crate.ROOT},
    }
    report = {"@id": "report/", "@type": "Dataset", "name": "Tables, figures and the page (index.html)"}
    return {
        "@context": [f"{crate.CONFORMS_TO}/context", {"sha256": "https://schema.org/sha256"}],
        "@graph": [descriptor, root, program, trained, report, *files],
    }


def _file(path: Path, root: Path) -> dict[str, str]:
    entity = crate.ListedFile.of(root, path).entity()
    return entity | ({"encodingFormat": _FORMATS[path.suffix]} if path.suffix in _FORMATS else {})


def _zip(folder: Path, to: Path) -> None:
    """Pack a folder into one file, the same bytes for the same content."""
    with written_whole(to) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder.parent)), _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
