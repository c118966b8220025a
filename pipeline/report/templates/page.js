// Hides the elements without all words of a text; "4xconv" finds "4×conv".
const filter = (elements, text) => {
  const plain = (any) => any.toLowerCase().replaceAll("×", "x");
  const words = plain(text).split(/\s+/);
  for (const element of elements) element.hidden = !words.every((word) => plain(element.textContent).includes(word));
};
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
    filter(rows, box.value);
  });
  table.closest(".scroll").before(box);
}
// Images: a text box hides those without the text, and opens every list that has one with it.
for (const gallery of document.querySelectorAll(".gallery")) {
  const box = gallery.querySelector("input");
  box.addEventListener("input", () => {
    filter(gallery.querySelectorAll(".shot"), box.value);
    for (const list of gallery.querySelectorAll("details")) list.open = !!list.querySelector(".shot:not([hidden])");
  });
}
// Boxes that scroll sideways are marked at each side that has more, and can be scrolled by keys.
for (const box of document.querySelectorAll(".scroll, .picture, .pan")) {
  const mark = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.classList.toggle("before", box.scrollLeft > 1);
    box.classList.toggle("more", hidden - box.scrollLeft > 1);
    if (hidden > 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  box.addEventListener("scroll", mark, { passive: true });
  const observer = new ResizeObserver(mark);
  for (const element of [box, ...box.children]) observer.observe(element);
}
