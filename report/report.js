// Tables sort and filter, figures open large, everything is open on paper. Without this file all of it can be read too.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("article table").forEach(makeTable);
  document.querySelectorAll("figure.zoomable a:has(img)").forEach(makeZoom);
  document.querySelectorAll("summary").forEach(nameBoxes);
  document.querySelectorAll(".search-button-field").forEach((each) => each.removeAttribute("aria-label")); // it has words
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((each) => (each.open = true));
  });
  window.addEventListener("afterprint", () => closed.forEach((each) => (each.open = false)));
});

const SORTED = 4; // rows from which sorting is of use
const FILTERED = 10;

function makeTable(table) {
  const rows = table.tBodies[0]?.rows.length ?? 0;
  const plain = !table.querySelector("[colspan], [rowspan]") && table.tHead?.rows.length === 1;
  const box = document.createElement("div"); // what is wider than the page scrolls in a box of its own
  box.className = "wide";
  table.replaceWith(box);
  box.append(table);
  if (plain && rows >= SORTED && window.DataTable) {
    new DataTable(table, {
      paging: false,
      info: false,
      order: [],
      autoWidth: false,
      searching: rows >= FILTERED,
      layout: { topStart: rows >= FILTERED ? "search" : null, topEnd: null, bottomStart: null, bottomEnd: null },
      language: { search: "Filter rows:" },
    });
  }
  new ResizeObserver(() => reachable(box)).observe(box);
}

function reachable(box) {
  // a box that scrolls can be reached by the keyboard, and has a name
  const scrolls = box.scrollWidth > box.clientWidth + 1;
  if (!scrolls) return ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  const boxes = [...document.querySelectorAll(".wide")];
  box.setAttribute("aria-label", `Table ${boxes.indexOf(box) + 1}, scrolls sideways`);
}

function makeZoom(link) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab, as ever
    event.preventDefault();
    const picture = link.querySelector("img");
    const dialog = document.createElement("dialog");
    dialog.className = "zoom";
    dialog.setAttribute("aria-label", "Figure, enlarged");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
    const large = Object.assign(document.createElement("img"), { src: link.href, alt: picture.alt });
    dialog.append(close, large);
    dialog.addEventListener("click", (inside) => inside.target !== large && dialog.close());
    large.addEventListener("click", () => dialog.classList.toggle("full")); // as large as its pixels
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });
}

function nameBoxes(summary) {
  // a table that was folded in has no width until it is seen
  summary.parentElement.addEventListener("toggle", () => summary.parentElement.querySelectorAll(".wide").forEach(reachable));
}
