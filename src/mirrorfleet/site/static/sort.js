// Sorts the table of mirrors by a column, when its head is pressed. The page says the same without it.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator(undefined, {numeric: true});
  heads.forEach((head, at) => {
    const number = head.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map(row => [row.cells[at].textContent.trim(), row]);
      // What is not known comes last, whichever way.
      rows.sort(([a], [b]) => (a === "") - (b === "")
        || turn * (number ? parseFloat(a) - parseFloat(b) : words.compare(a, b)) || 0);
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}
