"use strict";

// The choice under limits that a reader changes: fields, handles, the table.

const SHOWN = 10;

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
  const picture = make("div", { class: "pictured" }, looks, stage, legend);
  const drawable = across && up;
  box.prepend(said, make("div", { class: drawable ? "choosing" : "choosing plain" },
    ...(drawable ? [picture] : []), settings));
  refill();
  update({ table: false });
  return { draw, plot };
};
