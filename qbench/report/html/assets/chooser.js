"use strict";

// The choice under limits that a reader changes: fields, the picture, its handles, the table.

const WORDS = {
  recommended: ["recommended", "good"], meets: ["also meets", "plain"],
  undecided: ["undecided", "warned"], fails: ["fails", "bad"], faulty: ["faulty layers", "bad"],
};
const HEIGHT = 380;
const MARGIN = 0.06;
const SPREAD = 30;
const SHOWN = 10;
const NAMED = 30;

const option = (axis) => {
  const made = make("option", { value: axis.key });
  made.textContent = axis.short;
  return made;
};

const selected = (title, axes, value, changed) => {
  const field = make("select", {}, ...axes.map(option));
  field.value = value;
  field.addEventListener("change", () => changed(field.value));
  return [field, make("label", { class: "field" }, make("span", {}, title), field)];
};

const isKnown = (data, axis) => data.cells.some((cell) => cell.ranges[axis.key][0] !== null);

// Where an axis begins and ends, and whether it grows by powers.
const extentOf = (data, axis, limit) => {
  const values = data.cells.map((cell) => cell.ranges[axis.key][0]).filter((one) => one !== null);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const sizes = values.map(Math.abs).filter(Boolean).sort((one, other) => one - other);
  const middle = sizes[Math.floor(sizes.length / 2)] ?? 1;
  const powers = sizes.length > 2 && sizes[sizes.length - 1] / middle > SPREAD
    || (axis.kind === "cost" && least > 0 && most / least > SPREAD);
  const near = limit !== undefined && Math.abs(limit) <= 1.6 * Math.max(Math.abs(least), Math.abs(most))
    ? limit : most;
  const [low, high] = [Math.min(least, near), Math.max(most, near)];
  const constant = powers ? 10 ** Math.floor(Math.log10(Math.min(middle, Math.abs(near) || middle))) : 0;
  return { low, high, powers, constant };
};

const domainOf = ({ low, high, powers, constant }, axis) => {
  const [from, to] = [low, high].map((end) => end / axis.divisor);
  const turn = constant / axis.divisor;
  const forth = powers ? (value) => Math.sign(value) * Math.log1p(Math.abs(value / turn)) : (value) => value;
  const back = powers ? (value) => Math.sign(value) * turn * Math.expm1(Math.abs(value)) : (value) => value;
  const room = MARGIN * (forth(to) - forth(from) || Math.abs(forth(to)) || 1);
  const start = axis.kind === "cost" ? Math.max(0, forth(from) - room) : forth(from) - room;
  return [back(start), back(forth(to) + room)];
};

const scaleOf = (name, range, axis, extent) => ({
  name, range, zero: false, nice: false, domain: domainOf(extent, axis),
  reverse: name === "y" && axis.better === "higher",
  ...(extent.powers ? { type: "symlog", constant: extent.constant / axis.divisor } : { type: "linear" }),
});

const powersOf = (extent, axis) => {
  const turn = extent.constant / axis.divisor;
  const [from, to] = domainOf(extent, axis);
  const found = [0];
  for (let at = turn; at <= Math.max(Math.abs(from), Math.abs(to)); at *= 10) found.push(at, -at);
  return found.filter((value) => value >= from && value <= to);
};

// The title in as many lines as it needs.
const lines = (text, most) => text.split(" ").reduce((found, word) => {
  const last = found[found.length - 1];
  if (last && `${last} ${word}`.length <= most) found[found.length - 1] = `${last} ${word}`;
  else found.push(word);
  return found;
}, []);

const axisOf = (scale, orient, axis, extent) => ({
  scale, orient, grid: true, tickCount: 6, labelOverlap: true,
  title: lines(`${axis.changes ? "change of " : ""}${axis.title}${axis.symbol ? ` (${axis.symbol})` : ""},`
    + ` ${axis.better} is better`, 48),
  ...(extent.powers ? { values: powersOf(extent, axis) } : {}),
});

const COLOURS = {
  type: "ordinal", name: "colour", domain: STANDINGS,
  range: ["var(--good)", "var(--c1)", "var(--warned)", "var(--bad)", "var(--soft)"],
};
const SHAPES = {
  type: "ordinal", name: "shape", domain: STANDINGS,
  range: ["circle", "circle", "diamond", "M-0.8,-0.8L0.8,0.8M0.8,-0.8L-0.8,0.8", "triangle-down"],
};

const shade = { signal: "datum.dominated ? 0.4 : 1" };
const faint = { signal: "datum.dominated ? 0.25 : 0.7" };

const bar = (name, along) => {
  const across = along === "x" ? "y" : "x";
  return {
    type: "rule", name, from: { data: "cells" }, clip: true,
    encode: { update: {
      [along]: { scale: along, field: `${along}low` }, [`${along}2`]: { scale: along, field: `${along}high` },
      [across]: { scale: across, field: across },
      stroke: { scale: "colour", field: "standing" }, strokeWidth: { value: 1.5 }, opacity: faint,
    } },
  };
};

const beyond = (along) => ({
  type: "rect", from: { data: `${along}limit` }, clip: true,
  encode: { update: {
    [along]: { scale: along, field: "bound" }, [`${along}2`]: { scale: along, field: "end" },
    ...(along === "x" ? { y: { value: 0 }, y2: { signal: "height" } } : { x: { value: 0 }, x2: { signal: "width" } }),
    fill: { value: "var(--bad)" }, opacity: { value: 0.07 },
  } },
});

const line = (along) => ({
  type: "rule", name: `${along}line`, from: { data: `${along}limit` }, clip: true,
  encode: { update: {
    [along]: { scale: along, field: "bound" },
    ...(along === "x" ? { y: { value: 0 }, y2: { signal: "height" } } : { x: { value: 0 }, x2: { signal: "width" } }),
    stroke: { value: "var(--bad)" }, strokeWidth: { value: 1.5 }, strokeDash: { value: [5, 4] },
  } },
});

const pictureOf = (data, across, up, limits, width) => {
  const [wide, high] = [extentOf(data, across, limits[across.key]), extentOf(data, up, limits[up.key])];
  return {
    $schema: "https://vega.github.io/schema/vega/v6.json",
    width, height: HEIGHT, autosize: { type: "fit", contains: "padding" }, padding: 4,
    data: ["cells", "front", "xlimit", "ylimit"].map((name) => ({ name, values: [] })),
    scales: [
      scaleOf("x", "width", across, wide), scaleOf("y", "height", up, high), COLOURS, SHAPES,
    ],
    axes: [axisOf("x", "bottom", across, wide), axisOf("y", "left", up, high)],
    marks: [
      beyond("x"), beyond("y"),
      { type: "line", name: "frontier", from: { data: "front" }, clip: true,
        encode: { update: {
          x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" }, interpolate: { value: "step-after" },
          stroke: { value: "var(--soft)" }, strokeWidth: { value: 1 }, opacity: { value: 0.6 },
        } } },
      bar("acrossbars", "x"), bar("upbars", "y"),
      { type: "symbol", name: "points", from: { data: "cells" }, clip: true,
        encode: { update: {
          x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" },
          shape: { scale: "shape", field: "standing" },
          size: { signal: "datum.standing === 'recommended' ? 200 : datum.standing === 'fails' ? 130 : 90" },
          fill: { scale: "colour", field: "standing" }, stroke: { scale: "colour", field: "standing" },
          strokeWidth: { value: 2 }, opacity: shade,
          tooltip: { field: "tip" },
        } } },
      line("x"), line("y"),
      { type: "text", name: "names", from: { data: "points" }, interactive: false,
        encode: { update: {
          text: { field: "datum.name" }, fontSize: { value: 12 }, fill: { value: "var(--ink)" },
          fontWeight: { signal: "datum.datum.standing === 'recommended' ? 700 : 400" },
        } },
        transform: [{
          type: "label", size: { signal: "[width, height]" }, avoidMarks: ["acrossbars", "upbars", "frontier"],
          anchor: ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"],
          offset: [6], sort: { field: "datum.datum.first" }, padding: 0,
        }] },
    ],
    config: theme(),
  };
};

const cut = (text) => (text.length > 26 ? `${text.slice(0, 25)}…` : text);

// No other cell is at least as good by both, and better by one.
const isDominated = (one, others) => others.some((other) => other !== one && !other.faulty
  && other.across <= one.across && other.lost <= one.lost
  && (other.across < one.across || other.lost < one.lost));

const pointsOf = (found, across, up) => {
  const sign = signOf(up);
  const points = [];
  for (const one of found.candidates) {
    const [first, second] = [one.cell.ranges[across.key], one.cell.ranges[up.key]];
    if (first[0] === null || second[0] === null) continue;
    const end = ([value, low, high]) => [low ?? value, high ?? value];
    const [[xlow, xhigh], [ylow, yhigh]] = [[first, across], [second, up]]
      .map(([range, axis]) => end(range).map((each) => each / axis.divisor));
    points.push({
      name: cut(one.cell.label), standing: one.standing, faulty: one.cell.faulty,
      x: first[0] / across.divisor, y: second[0] / up.divisor, xlow, xhigh, ylow, yhigh,
      across: first[0], lost: sign * second[0], first: one.standing === "recommended" ? 0 : 1,
      tip: {
        title: one.cell.label, verdict: WORDS[one.standing][0],
        cost: `${across.short} ${withInterval(across, first)}`,
        quality: `${up.short} ${withInterval(up, second)}`,
      },
    });
  }
  for (const point of points) point.dominated = isDominated(point, points);
  if (points.length > NAMED) { // more names than can be read
    for (const point of points) if (point.dominated && point.first) point.name = "";
  }
  return points.reverse(); // the best is drawn over the others
};

const frontOf = (points) => points.filter((point) => !point.dominated && !point.faulty)
  .sort((one, other) => one.across - other.across || one.lost - other.lost);

const chooserIn = (box, data) => {
  const axes = new Map(data.axes.map((axis) => [axis.key, axis]));
  const known = data.axes.filter((axis) => isKnown(data, axis));
  const costs = known.filter((axis) => axis.kind === "cost");
  const qualities = known.filter((axis) => axis.kind === "quality");
  const upwards = qualities.length ? qualities : costs.slice(1);
  const limited = (some) => some.find((axis) => axis.key in data.limits) ?? some[0];
  const rows = [...box.querySelector("tbody").rows];
  const rowOf = new Map(data.rows.map((cell, at) => [data.cells[cell], rows[at]]));
  let limits, minimize, across, up, view, found;
  const first = [costs.find((axis) => axis.key === data.minimize) ?? costs[0], limited(upwards)];
  const start = () => {
    limits = { ...data.limits };
    minimize = data.minimize;
    [across, up] = first;
  };
  start();

  const said = make("p", { class: "said", role: "status" });
  const stage = make("div", { class: "stage" });
  const plot = make("div", { class: "plot", role: "img" });
  const inputs = new Map();
  const handles = new Map();

  const place = () => {
    if (!view) return;
    const [left, top] = view.origin();
    const shift = [plot.offsetLeft + left, plot.offsetTop + top];
    const size = { x: view.width(), y: view.height() };
    for (const [along, axis] of [["x", across], ["y", up]]) {
      const handle = handles.get(along);
      const bound = limits[axis.key];
      handle.hidden = bound === undefined;
      if (handle.hidden) continue;
      const at = Math.max(0, Math.min(size[along], view.scale(along)(bound / axis.divisor)));
      handle.style.left = `${shift[0] + (along === "x" ? at : size.x)}px`;
      handle.style.top = `${shift[1] + (along === "y" ? at : 0)}px`;
      handle.textContent = shownAs(axis, bound);
      handle.setAttribute("aria-label", `Limit of ${axis.title}`);
      handle.setAttribute("aria-valuenow", String(bound));
      handle.setAttribute("aria-valuetext", shownAs(axis, bound));
    }
  };

  const fill = () => {
    if (!view) return;
    const points = pointsOf(found, across, up);
    view.data("cells", points).data("front", frontOf(points));
    for (const [along, axis] of [["x", across], ["y", up]]) {
      const bound = limits[axis.key];
      const [from, to] = view.scale(along).domain();
      const end = axis.better === "lower" ? Math.max(from, to) : Math.min(from, to);
      view.data(`${along}limit`, bound === undefined ? [] : [{ bound: bound / axis.divisor, end }]);
    }
    view.runAsync();
    place();
  };

  const tellTable = () => {
    const axis = axes.get(minimize);
    const body = box.querySelector("tbody");
    const heads = box.querySelector("thead tr").cells;
    for (const head of heads) head.setAttribute("aria-sort", "none");
    const title = heads[2].querySelector("button") ?? heads[2];
    title.textContent = axis.short;
    const made = found.candidates.map((one) => {
      const row = rowOf.get(one.cell);
      const [, verdict, figure, why] = row.cells;
      const [word, tone] = WORDS[one.standing];
      verdict.textContent = word;
      verdict.className = `tone-${tone}`;
      const [value] = one.minimized;
      figure.textContent = value === null ? "-" : shownAs(axis, value);
      figure.className = value === null ? "right none" : "right";
      if (value === null) delete figure.dataset.value;
      else figure.dataset.value = String(value);
      figure.dataset.detail = withInterval(axis, one.minimized);
      why.textContent = reasonsFor(one, axis, data.limits);
      return row;
    });
    body.append(...made);
    body.order = made;
  };

  const tellSentence = () => {
    const [first, rest] = sentences(data, limits, minimize, found);
    said.replaceChildren(found.best ? `With these limits${qualities.length ? "" : ", by cost alone"}: ` : "",
      make("strong", { class: found.best ? "tone-good" : "tone-bad" }, first), found.best ? ", " : " ", rest);
    box.dataset.recommended = found.best ? found.best.cell.label : "";
  };

  const isChanged = () => minimize !== data.minimize || across !== first[0] || up !== first[1]
    || data.axes.some((axis) => limits[axis.key] !== data.limits[axis.key]);

  const update = ({ table = true } = {}) => {
    found = decide(data, limits, minimize);
    tellSentence();
    if (table) tellTable();
    fill();
    reset.disabled = !isChanged();
  };

  // One after the other: a picture that was asked for earlier never stands over a later one.
  let drawing = Promise.resolve();
  const draw = () => {
    drawing = drawing.catch(() => 0).then(drawNow);
    return drawing;
  };

  const drawNow = async () => {
    if (!across || !up) return;
    reset.disabled = !isChanged();
    view?.finalize();
    const made = await embed(plot, pictureOf(data, across, up, limits, roomFor(plot)));
    view = made.view;
    plot.setAttribute("aria-label", `${up.title} against ${across.title} of ${data.cells.length} cells;`
      + " the sentence above says which is recommended, the table below why not the others.");
    fill();
    await view.runAsync();
    place();
    plot.dataset.drawn = String(roomFor(plot));
  };

  const limit = (axis, value) => {
    if (value === undefined) delete limits[axis.key];
    else limits[axis.key] = value;
    const input = inputs.get(axis.key);
    input.value = value === undefined ? "" : shownAs(axis, value);
    input.setCustomValidity("");
    input.removeAttribute("aria-invalid");
    update();
  };

  const fieldFor = (axis) => {
    const word = axis.better === "lower" ? "at most" : "at least";
    const input = make("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "no limit" });
    input.addEventListener("change", () => {
      if (!input.value.trim()) { limit(axis, undefined); return; }
      const value = typed(axis, input.value);
      if (value === null) {
        const like = axis.display in UNITS ? shownAs({ ...axis, changes: false }, axis.divisor) : "1";
        input.setAttribute("aria-invalid", "true");
        input.setCustomValidity(`“${input.value}” is no limit on ${axis.short}; write it like ${like}`);
        input.reportValidity();
        return;
      }
      limit(axis, value);
    });
    input.addEventListener("input", () => input.setCustomValidity(""));
    inputs.set(axis.key, input);
    input.title = axis.title;
    const named = make("span", {}, axis.changes ? `change of ${axis.short}` : axis.short,
      make("span", { class: "quiet" }, ` ${word}`));
    return make("label", { class: "field" }, named, input);
  };

  const handleFor = (along) => {
    const handle = make("button", { type: "button", class: `handle ${along}`, role: "slider",
      "aria-orientation": along === "x" ? "horizontal" : "vertical" });
    const axisNow = () => (along === "x" ? across : up);
    const set = (shown) => {
      const axis = axisNow();
      const value = Number(shown.toPrecision(3)) * axis.divisor;
      limit(axis, axis.changes ? value : Math.max(0, value));
    };
    const at = (event) => {
      const area = plot.getBoundingClientRect();
      const [left, top] = view.origin();
      const [from, size] = along === "x" ? [event.clientX - area.left - left, view.width()]
        : [event.clientY - area.top - top, view.height()];
      return view.scale(along).invert(Math.max(0, Math.min(size, from)));
    };
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) set(at(event));
    });
    handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
      const step = steps[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const axis = axisNow();
      const [from, to] = view.scale(along).domain();
      set(limits[axis.key] / axis.divisor + step * Math.abs(to - from) / 100);
    });
    handles.set(along, handle);
    return handle;
  };

  const refill = () => {
    for (const [key, input] of inputs) {
      input.value = key in limits ? shownAs(axes.get(key), limits[key]) : "";
    }
    [acrossField.value, upField.value, leastField.value] = [across?.key, up?.key, minimize];
  };

  const [leastField, leastLabel] = selected("Lowest", costs, minimize, (key) => { minimize = key; update(); });
  const [acrossField, acrossLabel] = selected("against", costs, across?.key, (key) => { across = axes.get(key); draw(); });
  const [upField, upLabel] = selected("Picture of", upwards, up?.key, (key) => { up = axes.get(key); draw(); });
  const reset = make("button", { type: "button", class: "reset" }, "Reset");
  reset.addEventListener("click", () => { start(); refill(); update(); draw(); });

  const limitable = data.axes.filter((axis) => known.includes(axis) || axis.key in limits);
  const [shown, more] = [limitable.slice(0, SHOWN), limitable.slice(SHOWN)];
  const folded = more.length ? [make("details", { class: "fold" },
    make("summary", {}, `${more.length} more limits`), ...more.map(fieldFor))] : [];
  const settings = make("fieldset", { class: "limits" }, make("legend", {}, "Limits"),
    ...shown.map(fieldFor), ...folded, leastLabel, reset);
  const legend = make("p", { class: "told" },
    "● recommended or meets · ◆ undecided · ✕ fails. Lines through a sign are 95 % intervals; faded: another"
    + " cell is at least as good by both. Drag the limits, or type them: 6GiB, 1%, 40ms.");
  stage.append(plot, handleFor("x"), handleFor("y"));
  const looks = make("div", { class: "looks" }, upLabel, acrossLabel);
  const picture = make("div", { class: "pictured" }, ...(across && up ? [looks, stage, legend] : []));
  box.prepend(said, make("div", { class: "choosing" }, picture, settings));
  refill();
  update({ table: false });
  return { draw, plot };
};
