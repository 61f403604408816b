"""The whole report of a campaign, from the members that have finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hydragnn_hpc.atomic import remove_leftovers, storage_errors, write_json, write_text
from hydragnn_hpc.logs import ProgressCallback
from hydragnn_hpc.report.analysis.content import Content, gather
from hydragnn_hpc.report.document import markdown
from hydragnn_hpc.report.document.body import sections
from hydragnn_hpc.report.document.page import page
from hydragnn_hpc.report.figures.registry import FIGURES
from hydragnn_hpc.report.figures.style import SavedFigure, save, style
from hydragnn_hpc.report.tables.registry import SUFFIXES, TABLES, make_folder, write_tables


def write_report(
    out: Path | str, progress: ProgressCallback = lambda done, total: None, *, baselines: bool = True
) -> tuple[Content, list[Path]]:
    """Write tables, figures, claims, supplement, summary and page into ``report/``.

    Parameters
    ----------
    out : Path or str
        The campaign's folder.
    progress : callable, optional
        Called after each figure with the number of figures so far, and 0: how many there will be is not known.
    baselines : bool, optional
        Whether Table 1 also shows the baselines.

    Returns
    -------
    content : Content
        What the report shows.
    files : list of Path
        The files written. Tables, figures and claims of an earlier report that no longer apply are removed.

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
    if content.claims:
        write_text(folder.claims, markdown.claims_document(content))
        written.append(folder.claims)
    earlier = [p for p in folder.figures.iterdir() if p.suffix in (".png", ".pdf")]
    earlier += [folder.claims, *(folder.table(table.name, suffix) for table in TABLES for suffix in SUFFIXES)]
    for path in earlier:
        if path not in written and path.is_file():
            with storage_errors(path):
                path.unlink(missing_ok=True)
    parts = sections(content, figures)
    write_text(folder.supplement, markdown.supplement(content, parts))
    write_json(folder.summary, markdown.summary(content, figures))
    write_text(folder.page, page(content, parts))
    return content, [*written, folder.supplement, folder.summary, folder.page]


def _draw(content: Content, written: list[Path], progress: ProgressCallback) -> list[SavedFigure]:
    """Draw and save all figures, and add their files to ``written``."""
    saved: list[SavedFigure] = []
    with style():
        for figure in FIGURES:
            for drawing in figure.draw(content):
                name = drawing.name
                while any(name == other.name for other in saved):  # variants may differ in '.', '_' and '-' alone
                    name += "+"
                written += save(replace(drawing, name=name), content.results.folder.figures)
                saved.append(SavedFigure(figure.section, name, drawing.title, drawing.caption))
                progress(len(saved), 0)
    return saved
