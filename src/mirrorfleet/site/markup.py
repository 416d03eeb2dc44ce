"""What only the pages of a fleet's site need: its script and icon, and how they tell of certificates."""

from ..fleet.markup import date

SCRIPT = """\
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
"""

# Browsers ask for one unasked, and the policy of the site lets them have it from here only.
ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<path fill="#3f7fbf" d="M1 2h14v3H1zM1 7h14v3H1zM1 12h14v3H1z"/>
<path fill="#fff" d="M3 3h1v1H3zM3 8h1v1H3zM3 13h1v1H3z"/></svg>
"""

# A certificate that was not renewed by then is likely not to be: 90 days are renewed at 30 by every client we know.
CERTIFICATE_WARNING = 14 * 86400


def certificate(ends: int | None, now: int) -> str:
    """When a certificate ends, with a warning in words well before."""
    if ends is None or not 0 <= ends < 2**37:
        return ""
    left = ends - now
    warning = "" if left > CERTIFICATE_WARNING else "ended" if left <= 0 else "ends soon"
    return date(ends) + (f' <span class="bad">{warning}</span>' if warning else "")
