"""The whole report of a campaign, from whatever has finished."""

from __future__ import annotations

from pathlib import Path

from hydragnn_hpc.logs import Progress
from hydragnn_hpc.paths import remove_leftovers, write_json, write_text
from hydragnn_hpc.report.document import content as stage
from hydragnn_hpc.report.document import markdown
from hydragnn_hpc.report.document.body import sections
from hydragnn_hpc.report.document.content import Content
from hydragnn_hpc.report.document.page import page
from hydragnn_hpc.report.figures.style import Drawing, save, style
from hydragnn_hpc.report.tables.summary import make_folder, write_tables


def write_report(out: Path | str, progress: Progress = lambda done, total: None) -> tuple[Content, list[Path]]:
    """Write tables, figures, claims, supplement, summary and page into ``report/``.

    Parameters
    ----------
    out : Path or str
        The campaign's folder.
    progress : callable, optional
        Called as figures get done.

    Returns
    -------
    content : Content
        What the report says.
    files : list of Path
        What was written. Figures of an earlier report that no longer apply are removed.

    Raises
    ------
    UserError
        If the folder holds no campaign, a result cannot be read, or the folder cannot be written.
    """
    content = stage.gather(out)
    folder = content.results.folder
    make_folder(folder)
    remove_leftovers(folder.figures)
    written = write_tables(content.results)
    drawings = _draw(content, written, progress)
    for old in folder.figures.iterdir():
        if old.suffix in (".png", ".pdf") and old not in written:
            old.unlink(missing_ok=True)
    parts = sections(content, drawings)
    write_text(folder.claims, markdown.claims_document(content))
    write_text(folder.supplement, markdown.supplement(content, parts))
    write_json(folder.summary, markdown.summary(content, drawings))
    write_text(folder.page, page(content, parts))
    return content, [*written, folder.claims, folder.supplement, folder.summary, folder.page]


def _draw(content: Content, written: list[Path], progress: Progress) -> list[Drawing]:
    found: list[Drawing] = []
    with style():
        for make in stage.drawings(content):
            for drawing in make():
                written += save(drawing, content.results.folder.figures)
                # The figure itself is let go: hundreds of them would fill the memory.
                found.append(Drawing(drawing.name, drawing.title, drawing.caption, None))
                progress(len(found), 0)
    return found
