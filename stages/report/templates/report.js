// Sorts tables. Without this script, every table is still complete, and in the order of the mean cosine.
"use strict";
for (const table of document.querySelectorAll("table:has(th[data-first])")) {
  const body = table.querySelector("tbody.rows");
  const initial = [...body.rows]; // rows with equal keys keep this order, whatever was sorted before
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.dataset.first) return;
    // Not a <button>: Chromium does not print buttons in the heads that it repeats on every page.
    const button = document.createElement("div");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(); // or the space bar would scroll the page
      button.click();
    });
    button.addEventListener("click", () => {
      const first = head.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      body.append(...sorted(initial, column, order === "ascending" ? 1 : -1));
    });
  });
}

function sorted(rows, column, sign) {
  const keys = new Map(rows.map((row) => [row, row.cells[column].dataset.key]));
  return [...rows].sort((a, b) => {
    const [one, two] = [keys.get(a), keys.get(b)];
    if (one === undefined || two === undefined) return (one === undefined) - (two === undefined); // unknown values come last
    const text = isNaN(one) || isNaN(two);
    return sign * (text ? one.localeCompare(two, "en", { numeric: true }) : one - two);
  });
}
