"use strict";

// The picture of what each cell loses against what it costs: a Vega specification, and its data.

const WORDS = {
  recommended: ["recommended", "good"], meets: ["also meets", "plain"],
  undecided: ["undecided", "warned"], fails: ["fails", "bad"], faulty: ["faulty layers", "bad"],
};
const HEIGHT = 380;
const MARGIN = 0.06;
const SPREAD = 30;
const NAMED = 30;

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
