"""The whole report of a campaign, from the members that have finished."""

from __future__ import annotations

from pathlib import Path

from hydragnn_hpc.atomic import remove_leftovers, write_json, write_text
from hydragnn_hpc.logs import ProgressCallback
from hydragnn_hpc.report.analysis.content import Content, gather
from hydragnn_hpc.report.document import markdown
from hydragnn_hpc.report.document.body import sections
from hydragnn_hpc.report.document.page import page
from hydragnn_hpc.report.figures.registry import FIGURES
from hydragnn_hpc.report.figures.style import SavedFigure, save, style
from hydragnn_hpc.report.tables.registry import make_folder, write_tables


def write_report(
    out: Path | str, progress: ProgressCallback = lambda done, total: None, *, baselines: bool = True
) -> tuple[Content, list[Path]]:
    """Write tables, figures, claims, supplement, summary and page into ``report/``.

    Parameters
    ----------
    out : Path or str
        The campaign's folder.
    progress : callable, optional
        Called after each figure.
    baselines : bool, optional
        Whether Table 1 also shows the baselines.

    Returns
    -------
    content : Content
        What the report shows.
    files : list of Path
        The files written. Figures and claims of an earlier report that no longer apply are removed.

    Raises
    ------
    UserError
        If the folder holds no campaign, or the folder cannot be written.
    """
    content = gather(out, baselines)
    folder = content.results.folder
    make_folder(folder)
    remove_leftovers(folder.figures)
    written = write_tables(content.results)
    figures = _draw(content, written, progress)
    for old in folder.figures.iterdir():
        if old.suffix in (".png", ".pdf") and old not in written:
            old.unlink(missing_ok=True)
    parts = sections(content, figures)
    if content.claims:
        write_text(folder.claims, markdown.claims_document(content))
        written.append(folder.claims)
    else:
        folder.claims.unlink(missing_ok=True)
    write_text(folder.supplement, markdown.supplement(content, parts))
    write_json(folder.summary, markdown.summary(content, figures))
    write_text(folder.page, page(content, parts))
    return content, [*written, folder.supplement, folder.summary, folder.page]


def _draw(content: Content, written: list[Path], progress: ProgressCallback) -> list[SavedFigure]:
    saved: list[SavedFigure] = []
    with style():
        for figure in FIGURES:
            for drawing in figure.draw(content):
                written += save(drawing, content.results.folder.figures)
                saved.append(SavedFigure(figure.section, drawing.name, drawing.title, drawing.caption))
                progress(len(saved), 0)
    return saved
