// Filters the matrix, says what a tapped cell is, and hands out its numbers as a CSV file.
"use strict";
(() => {
  const table = document.getElementById("matrix");
  const form = document.querySelector(".matrix-filters");
  const rows = [...table.querySelectorAll("tr[data-picks]")].map((tr) => ({ tr, picks: tr.dataset.picks.split(" ").map(Number) }));
  const heads = [...table.tHead.querySelectorAll("th[data-first]")].map((th) => ({ th, first: Number(th.dataset.first), last: Number(th.dataset.last) }));
  const onlyClear = form.querySelector("input");
  const isClear = (td) => td.classList.contains("y");

  function filter() {
    const picked = [...form.querySelectorAll("select")].map((select) => (select.value === "" ? null : Number(select.value)));
    const fits = ({ picks }) => picked.every((pick, n) => pick === null || picks[n] === -1 || picks[n] === pick);
    const shown = rows.filter((row) => fits(row) && (!onlyClear.checked || [...row.tr.cells].some(isClear)));
    const isShown = new Set(shown.map(({ tr }) => tr));
    for (const { tr } of rows) tr.hidden = !isShown.has(tr);
    for (const body of table.tBodies) body.hidden = ![...body.rows].some((tr) => isShown.has(tr));
    const num = Math.max(...heads.map(({ last }) => last)) + 1;
    const hasColumn = Array.from({ length: num }, (_, n) => !onlyClear.checked || shown.some(({ tr }) => isClear(tr.cells[n + 1])));
    for (const { tr } of rows) hasColumn.forEach((has, n) => (tr.cells[n + 1].hidden = !has));
    for (const { th, first, last } of heads) {
      const span = hasColumn.slice(first, last + 1).filter(Boolean).length;
      th.hidden = !span;
      th.colSpan = Math.max(1, span);
    }
    for (const td of table.querySelectorAll(".group td")) td.colSpan = Math.max(1, hasColumn.filter(Boolean).length);
    table.classList.toggle("is-only-clear", onlyClear.checked);
  }

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const written = (value) => (value === null ? "" : quoted(String(value)));

  function csv() {
    const columns = Object.entries(JSON.parse(document.getElementById("matrix-csv").textContent));
    const valuesOf = ([, column]) => (Array.isArray(column) ? column : column.at.map((n) => column.texts[n]));
    const values = columns.map(valuesOf);
    const lines = values[0].map((_, row) => values.map((column) => written(column[row])).join());
    return [columns.map(([name]) => quoted(name)).join(), ...lines, ""].join("\n");
  }

  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector(".download").addEventListener("click", ({ target }) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = target.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
  table.addEventListener("click", ({ target }) => {
    const cell = target.closest("td[title]");
    if (!cell) return;
    const row = cell.closest("tr"), body = cell.closest("tbody");
    const over = heads.filter(({ first, last }) => first < cell.cellIndex && cell.cellIndex <= last + 1);
    const [, set, column] = over.map(({ th }) => th.firstChild.textContent);
    const detail = document.querySelector(".matrix-detail");
    detail.textContent = `${body.rows[0].cells[0].textContent}, ${row.cells[0].textContent}, ${set} ${column}: ${cell.title}`;
    detail.hidden = false;
  });
  form.hidden = false;
})();
