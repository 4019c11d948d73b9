// Sorting and filtering of the package table. Without this it is sorted by size.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      rows.sort((a, b) => key(a, column).localeCompare(key(b, column), "en", { numeric: true }) * (falling ? -1 : 1));
      body.append(...rows);
    });
  });
  const filter = document.getElementById(table.dataset.filter);
  const count = document.getElementById(table.dataset.count);
  filter.closest("label").hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown++;
    }
    count.textContent = `${shown} of ${rows.length}`;
  });
}
