"use strict";

// Tables: what a figure's detail is, sorting, filtering, intervals.

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

const detail = make("div", { id: "detail", role: "tooltip", hidden: "" });
document.body.append(detail);
let told = null;

const tell = (element) => {
  if (told === element) return;
  if (told) told.removeAttribute("aria-describedby");
  told = element;
  detail.hidden = !element;
  if (!element) return;
  detail.textContent = element.dataset.detail;
  element.setAttribute("aria-describedby", "detail");
  placeDetail();
};

const placeDetail = () => {
  if (!told) return;
  const place = told.getBoundingClientRect();
  const { width, height } = detail.getBoundingClientRect();
  const left = Math.max(8, Math.min(place.right - width, innerWidth - width - 8));
  const below = place.bottom + 6 + height < innerHeight;
  detail.style.left = `${left}px`;
  detail.style.top = `${below ? place.bottom + 6 : Math.max(4, place.top - height - 6)}px`;
};

const holder = (event) => event.target.closest?.("[data-detail]") ?? null;
document.addEventListener("pointerover", (event) => tell(holder(event)));
document.addEventListener("click", (event) => tell(holder(event)));
document.addEventListener("focusin", (event) => tell(holder(event)));
document.addEventListener("scroll", placeDetail, { capture: true, passive: true });

// One figure of a table is reached by Tab, the others from it by the arrow keys.
const figures = (row) => [...row.querySelectorAll("[data-detail]:not(thead *)")];
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tell(null);
  const cell = event.target;
  const [rows, columns] = ARROWS[event.key] ?? [0, 0];
  if (!(rows || columns) || !cell.matches?.("td[data-detail]")) return;
  event.preventDefault();
  let next = cell;
  do {
    if (rows) {
      const row = rows > 0 ? next.parentElement.nextElementSibling
        : next.parentElement.previousElementSibling;
      next = row?.cells[cell.cellIndex];
    } else {
      next = columns > 0 ? next.nextElementSibling : next.previousElementSibling;
    }
  } while (next && (!next.dataset.detail || next.parentElement.hidden));
  if (!next) return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

const number = (cell) => (cell?.dataset.value === undefined ? null : Number(cell.dataset.value));
const words = new Intl.Collator("en", { numeric: true });

const compare = (column, sign) => (one, other) => {
  const [a, b] = [one.cells[column], other.cells[column]];
  const [first, second] = [number(a), number(b)];
  if (first !== null && second !== null) return sign * (first - second);
  if (first !== null || second !== null) return first === null ? 1 : -1;
  const nothing = [a, b].map((cell) => cell.classList.contains("none") || !cell.textContent);
  if (nothing[0] !== nothing[1]) return nothing[0] ? 1 : -1;
  return sign * words.compare(a.textContent, b.textContent);
};

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

const sortable = (table) => {
  const body = table.tBodies[0];
  body.order = [...body.rows];
  if (body.order.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.setAttribute("aria-sort", "none");
    head.append(button);
    button.addEventListener("click", () => {
      const sorted = NEXT[head.getAttribute("aria-sort")];
      heads.forEach((each) => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sorted);
      const sign = sorted === "descending" ? -1 : 1;
      body.append(...(sorted === "none" ? body.order : [...body.order].sort(compare(column, sign))));
    });
  });
};

const filterable = (table, tools) => {
  const rows = [...table.tBodies[0].rows];
  const field = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  const count = make("span", { role: "status" });
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
  });
  tools.append(make("label", {}, "Filter rows ", field), count);
};

for (const box of document.querySelectorAll("[data-table]")) {
  const table = box.querySelector("table");
  const tools = make("div", { class: "tools" });
  sortable(table);
  if ("filter" in box.dataset) filterable(table, tools);
  if ("intervals" in box.dataset) {
    const check = make("input", { type: "checkbox" });
    check.addEventListener("change", () => box.classList.toggle("with-intervals", check.checked));
    tools.append(make("label", {}, check, " 95 % intervals"));
  }
  if (tools.childElementCount) box.prepend(tools);
  figures(table).forEach((cell, at) => { cell.tabIndex = at ? -1 : 0; });
}

// A table that goes on to the right fades there; what scrolls is reached by Tab, the rest is not.
const scrolled = (box) => {
  box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
};
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => {
  scrolled(target);
  const scrolls = target.scrollWidth > target.clientWidth + 2 || target.scrollHeight > target.clientHeight + 2;
  if (scrolls) target.tabIndex = 0;
  else target.removeAttribute("tabindex");
}));
for (const box of document.querySelectorAll(".scroll, pre")) {
  sizes.observe(box);
  box.addEventListener("scroll", () => scrolled(box), { passive: true });
}

// Contents: open where there is room, and showing where the reader is.

const contents = document.querySelector(".contents");
if (contents) {
  const wide = matchMedia("(min-width: 72rem)");
  const fit = () => { contents.firstElementChild.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  const links = new Map();
  for (const link of contents.querySelectorAll("a")) links.set(link.hash.slice(1), link);
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      seen[isIntersecting ? "add" : "delete"](target.id);
    }
    const [now] = [...links.keys()].filter((id) => seen.has(id));
    if (!now) return;
    for (const [id, link] of links) {
      if (id === now) link.setAttribute("aria-current", "location");
      else link.removeAttribute("aria-current");
    }
    const [list, one] = [contents.getBoundingClientRect(), links.get(now).getBoundingClientRect()];
    if (one.top < list.top || one.bottom > list.bottom) {
      contents.scrollTop += one.top - list.top - list.height / 2;
    }
  }, { rootMargin: "0px 0px -60% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));
}

// Pictures: each drawn when its turn comes, again where the room or the scheme changes.

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawings = new Map();
const specs = JSON.parse(document.getElementById("charts").textContent);

// A legend begins where the axis does: on a phone its names have room below one another alone.
const legendColumns = (width) => (width < 380 ? 1 : width < 600 ? 2 : 4);

const theme = (width) => {
  const quiet = "var(--soft)";
  const ink = "var(--ink)";
  const line = "var(--line)";
  const font = "system-ui, sans-serif";
  return {
    background: "transparent",
    font,
    axis: {
      labelColor: quiet, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, labelLimit: 180, titlePadding: 8,
    },
    legend: {
      labelColor: ink, titleColor: quiet, labelFontSize: 12, titleFontSize: 12,
      titleFontWeight: 500, labelLimit: 220, orient: "bottom", columns: legendColumns(width),
      symbolType: "circle",
    },
    header: { labelColor: ink, titleColor: quiet, labelFontSize: 12, labelLimit: 220 },
    title: { color: ink, subtitleColor: quiet, fontSize: 13, fontWeight: 600, anchor: "start" },
    view: { stroke: "transparent" },
    style: {
      "guide-label": { fill: quiet },
      "guide-title": { fill: quiet },
    },
    mark: { color: "var(--c1)" },
    text: { color: ink },
    rule: { color: quiet },
    tick: { color: quiet },
    range: {
      category: Array.from({ length: 10 }, (_, at) => `var(--c${at + 1})`),
      heatmap: dark.matches ? ["#22272c", "#3a5f8a", "#82b4ee", "#f2f6fb"]
        : ["#f3f3ef", "#b7cbe4", "#5f92cc", "#1d3f6e"],
      ramp: dark.matches ? ["#22272c", "#3a5f8a", "#82b4ee", "#f2f6fb"]
        : ["#f3f3ef", "#b7cbe4", "#5f92cc", "#1d3f6e"],
      diverging: dark.matches ? ["#ea9a58", "#5f4a3a", "#22272c", "#3a5f8a", "#82b4ee"]
        : ["#c8681b", "#edc9a6", "#f3f3ef", "#b7cbe4", "#1f5fa8"],
    },
  };
};

const roomFor = (plot) => {
  let place = plot;
  while (place && !place.clientWidth) place = place.parentElement;
  return Math.max(240, Math.floor((place ?? document.body).clientWidth) - (place === plot ? 0 : 40));
};

const single = (spec) => !["facet", "hconcat", "vconcat", "concat", "repeat"].some((key) => key in spec)
  && !["row", "column", "facet"].some((key) => key in (spec.encoding ?? {}));

const shown = new Map();

const OPTIONS = {
  mode: "vega", renderer: "svg", actions: false, ast: true, defaultStyle: false,
  tooltip: { disableDefaultStyle: true },
};

// Drawn aside and put in at once; what the plot itself says of the picture stays as it is.
const embed = async (plot, spec) => {
  const inner = make("div");
  const made = await vegaEmbed(inner, spec, OPTIONS);
  plot.replaceChildren(inner);
  return made;
};

const draw = async (plot) => {
  const spec = specs[Number(plot.dataset.chart)];
  const width = roomFor(plot);
  const sized = single(spec) && !("width" in spec);
  const { spec: compiled } = vegaLite.compile({ ...(sized ? { width } : {}), ...spec },
    { config: { ...theme(width), ...spec.config } });
  // Set here: Vega-Lite warns of it wherever the height follows from the number of bars.
  if (sized) compiled.autosize = { type: "fit-x", contains: "padding" };
  const made = await embed(plot, compiled);
  shown.get(plot)?.finalize();
  shown.set(plot, made);
  plot.dataset.drawn = String(width);
};

// Between two pictures the page takes what a reader does; not every browser tells when it is idle.
const idle = (next) => {
  if (window.requestIdleCallback) requestIdleCallback(next, { timeout: 200 });
  else setTimeout(next, 0);
};

const drawAll = async () => {
  for (const [plot, drawn] of drawings) {
    try {
      await drawn();
    } catch (error) {
      plot.textContent = "This picture could not be drawn; its numbers stand in the tables.";
      console.error(error);
    }
    await new Promise(idle);
  }
  document.documentElement.dataset.drawn = "";
};

let waiting = 0;
const redraw = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if ([...drawings.keys()].some((plot) => plot.dataset.drawn !== String(roomFor(plot)))) drawAll();
  }, 150);
};

const choosers = [...document.querySelectorAll("[data-chooser]")];
const choices = JSON.parse(document.getElementById("choosers").textContent);
for (const box of choosers) {
  const made = chooserIn(box, choices[Number(box.dataset.chooser)]);
  drawings.set(made.plot, made.draw);
}
for (const plot of document.querySelectorAll(".plot[data-chart]")) {
  drawings.set(plot, () => draw(plot));
}
drawAll();
addEventListener("resize", redraw);
dark.addEventListener("change", () => drawAll());
for (const fold of document.querySelectorAll("details.fold")) fold.addEventListener("toggle", redraw);

// On paper nothing can be opened.
let opened = [];
addEventListener("beforeprint", () => {
  tell(null);
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
