// Sorts a table by the column whose heading is pressed, again for the other direction.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const isNumber = heading.classList.contains("number");
    const valueOf = (row) => {
      const value = row.cells[column].dataset.sort;
      return value === undefined ? null : isNumber ? Number(value) : value;
    };
    heading.querySelector("button").addEventListener("click", () => {
      const sign = heading.ariaSort === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const compare = (a, b) => {
        const [x, y] = [valueOf(a), valueOf(b)];
        if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last
        return sign * (isNumber ? x - y : x.localeCompare(y));
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}
