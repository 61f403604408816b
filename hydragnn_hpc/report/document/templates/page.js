"use strict";
// A click on a column's name sorts its table: numbers by value ("7.54e-3 ± 8.7e-4" by the first), text alphabetically,
// blanks last.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  // "2026-08-01" is a date, and not the number 2026.
  const number = /^\[?[+-]?[\d,]*\.?\d+(e[+-]?\d+)?(?![\w.:-])/i.test(text)
    ? parseFloat(text.replace(/^\[/, "").replace(/,(?=\d{3})/g, "")) : NaN;
  return { text, number, blank: text === "" || text === "–" };
}
function compare(a, b) {
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
  if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
  return a.text.localeCompare(b.text, undefined, { numeric: true });
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = Array.from(body.rows, (row) => ({ row, key: value(row, head.cellIndex) }));
    keyed.sort((a, b) => {
      if (a.key.blank !== b.key.blank) return a.key.blank ? 1 : -1;
      return (up ? 1 : -1) * compare(a.key, b.key);
    });
    body.append(...keyed.map((k) => k.row));
  });
}
