// Long tables: a click on a column's header sorts by it, a text box hides the rows without the text.
for (const table of document.querySelectorAll("table.long")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.sort ?? cell.textContent.trim();
    // A number, perhaps with a unit or a range after it, but no hash that begins with digits.
    const number = text.replace(/,/g, "").match(/^[+-]?\d*\.?\d+(?![\w.-])/);
    return number ? parseFloat(number[0]) : text.toLowerCase();
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const x = value(a, column), y = value(b, column);
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      };
      body.append(...[...rows].sort(order));
    });
  });
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "Filter";
  box.setAttribute("aria-label", `Filter the rows of ${table.getAttribute("aria-label")}`);
  box.addEventListener("input", () => {
    // "4xconv" finds "4×conv".
    const plain = (text) => text.toLowerCase().replaceAll("×", "x");
    const words = plain(box.value).split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => plain(row.textContent).includes(word));
  });
  table.closest(".scroll").before(box);
}
