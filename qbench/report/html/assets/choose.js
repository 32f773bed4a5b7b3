"use strict";

// Which cell meets the limits and is best: the rule of qbench/compare/recommend/recommend.py, for
// limits that a reader changes. A test holds the two against one another.

const STANDINGS = ["recommended", "meets", "undecided", "fails", "faulty"];
const LEAST_SCALE = 0.01;

const signOf = (axis) => (axis.better === "lower" ? 1 : -1);
const signed = (number, sign) => (number === null ? null : sign * number);

const checkOf = (axis, limit, range) => {
  const sign = signOf(axis);
  const [value, low, high] = range;
  const bound = sign * limit;
  const [near, far] = (sign > 0 ? [low, high] : [high, low]).map((end) => signed(end, sign));
  const plain = signed(value, sign);
  const check = { axis, limit, range, verdict: "undecided", beyond: null, distance: null };
  if (far !== null && far <= bound) return { ...check, verdict: "meets", distance: 0 };
  if (plain !== null && plain > bound) check.beyond = plain - bound;
  const measure = axis.kind === "quality" ? Math.max(Math.abs(bound), LEAST_SCALE) : Math.abs(bound);
  const reached = far ?? plain;
  if (reached !== null) {
    check.distance = measure ? Math.max(0, reached - bound) / measure : Infinity;
  }
  if (near !== null && near > bound) check.verdict = "fails";
  return check;
};

const judge = (cell, data, limits, minimize) => {
  const checks = Object.entries(limits).map(([key, limit]) =>
    checkOf(data.axes.find((axis) => axis.key === key), limit, cell.ranges[key]));
  const minimized = cell.ranges[minimize];
  const verdicts = new Set(checks.map((check) => check.verdict));
  let standing = "meets";
  if (cell.faulty) standing = "faulty";
  else if (verdicts.has("fails")) standing = "fails";
  else if (verdicts.has("undecided") || minimized[0] === null) standing = "undecided";
  const ways = checks.map((check) => check.distance ?? Infinity);
  return { cell, standing, checks, minimized, apart: null, same: false, distance: Math.max(0, ...ways) };
};

const byRank = (data) => {
  const quality = data.axes.find((axis) => axis.kind === "quality");
  const rank = (one) => {
    const lost = quality ? signed(one.cell.ranges[quality.key][0], signOf(quality)) : null;
    return [STANDINGS.indexOf(one.standing), one.minimized[0] ?? Infinity, lost ?? Infinity];
  };
  return (one, other) => {
    const [first, second] = [rank(one), rank(other)];
    const at = first.findIndex((each, index) => each !== second[index]);
    return at < 0 ? 0 : first[at] < second[at] ? -1 : 1;
  };
};

const decide = (data, limits, minimize) => {
  const candidates = data.cells.map((cell) => judge(cell, data, limits, minimize));
  candidates.sort(byRank(data));
  let best = candidates[0]?.standing === "meets" ? candidates[0] : null;
  if (best) {
    best.standing = "recommended";
    for (const one of candidates) {
      if (one.standing !== "meets") continue;
      const [high, low] = [best.minimized[2], one.minimized[1]];
      one.apart = high === null || low === null ? null : high < low;
      const ends = [...best.minimized.slice(0, 3), ...one.minimized.slice(0, 3)];
      one.same = ends[0] !== null && ends.every((end) => end === ends[0]);
    }
  }
  const near = candidates.filter((one) => ["undecided", "fails"].includes(one.standing)
    && Number.isFinite(one.distance));
  const nearest = best ? null : near.reduce((least, one) =>
    (least && least.distance <= one.distance ? least : one), null);
  return { candidates, best, nearest };
};

// What is said of it.

const BYTES = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const SECONDS = [[10, 1, "s"], [1e-3, 1e-3, "ms"], [0, 1e-6, "µs"]];

const three = (number) => String(Number(number.toPrecision(3)));

const shownAs = (axis, value) => {
  if (axis.display === "bytes") {
    const [size, symbol] = BYTES.find(([least]) => Math.abs(value) >= least) ?? BYTES[3];
    return `${three(value / size)} ${symbol}`;
  }
  if (axis.display === "seconds") {
    const [, size, symbol] = SECONDS.find(([least]) => Math.abs(value) >= least);
    return `${three(value / size)} ${symbol}`;
  }
  const percent = axis.display === "change" || axis.display === "percent";
  const number = percent ? 100 * value : value;
  const text = axis.changes && number > 0 ? `+${three(number)}` : three(number);
  return percent ? `${text} %` : axis.unit === "J" ? `${text} J` : text;
};

const withInterval = (axis, [value, low, high, reason, unlike]) => {
  if (value === null) return reason ?? "not measured";
  const text = shownAs(axis, value) + (unlike ? " ≠" : "");
  if (low === null || high === null) return `${text} (interval not known)`;
  return low === high ? text : `${text} (${shownAs(axis, low)} to ${shownAs(axis, high)})`;
};

const beyondWords = ({ axis, beyond }) => {
  if (beyond === null) return "";
  if (axis.display === "change") return `${three(100 * beyond)} points`;
  return axis.changes ? three(beyond) : shownAs(axis, beyond);
};

// What more data would decide is known of the limits that the page was made with.
const neededFor = ({ axis, limit }, cell, made) => {
  const told = limit === made[axis.key] ? cell.needed[axis.key] : undefined;
  return told ? `: ${told}` : "";
};

const whyNot = (check, cell, made) => {
  const { axis, range, limit, verdict } = check;
  const [value, low, high, reason] = range;
  if (value === null) return `${axis.short}: ${reason ?? "not measured"}`;
  const text = `${axis.short} ${withInterval(axis, range)}`;
  const bound = shownAs(axis, limit);
  if (verdict === "fails") {
    return `${text}, ${beyondWords(check)} ${axis.better === "lower" ? "above" : "below"} ${bound}`;
  }
  if (low === null || high === null) return `${text}, limit ${bound}: ${reason ?? "undecided"}`;
  return `${text} reaches over ${bound}${neededFor(check, cell, made)}`;
};

const reasonsFor = (one, axis, made) => {
  if (one.standing === "faulty") return "its layers do not compute what they hold: it is no choice";
  const failed = one.checks.filter((check) => check.verdict === "fails");
  const open = one.checks.filter((check) => check.verdict === "undecided");
  if (one.standing === "fails" || one.standing === "undecided") {
    const told = (failed.length ? failed : open)
      .map((check) => whyNot(check, one.cell, made));
    if (one.minimized[0] === null) told.push(`${axis.short}: ${one.minimized[3] ?? "not measured"}`);
    return told.join("; ");
  }
  const told = one.checks.map((check) => `${check.axis.short} ${withInterval(check.axis, check.range)}`);
  if (one.same) told.push(`the same ${axis.short}`);
  else if (one.apart === false) {
    told.push(`${axis.short} not told apart from the best's: the intervals overlap`);
  }
  return told.join("; ");
};

const MOST_NAMED = 6;

const listed = (names, last) => {
  if (names.length > MOST_NAMED) {
    return `${names.slice(0, MOST_NAMED - 1).join(", ")} ${last} ${names.length - MOST_NAMED + 1} more`;
  }
  return names.length < 2 ? names.join("")
    : `${names.slice(0, -1).join(", ")} ${last} ${names[names.length - 1]}`;
};

// The sentences: what is to be seen first, and the rest.
const sentences = (data, limits, minimize, found) => {
  const axis = data.axes.find((each) => each.key === minimize);
  const { best, nearest, candidates } = found;
  const none = `No ${data.noun} is shown to meet every limit.`;
  if (!best && !nearest) return [none, "Of none is it known how far it is from them."];
  if (!best) {
    const lacks = ["fails", "undecided"].flatMap((verdict) =>
      nearest.checks.filter((check) => check.verdict === verdict));
    const why = lacks.length
      ? lacks.map((check) => whyNot(check, nearest.cell, data.limits)).join("; ")
      : `its ${axis.short} is not known: ${nearest.minimized[3] ?? "not measured"}`;
    return [none, `Nearest is ${nearest.cell.label}: ${why}.`];
  }
  const others = candidates.filter((one) => one.standing === "meets");
  const number = others.length + 1;
  const why = number > 1 ? `the lowest ${axis.short} of the ${number} ${data.noun}s that meet every limit`
    : `the only ${data.noun} that meets every limit`;
  const told = [`${axis.short} ${withInterval(axis, best.minimized)}`];
  for (const each of data.axes) {
    const range = best.cell.ranges[each.key];
    if (each.key !== minimize && each.key in limits && range[0] !== null) {
      told.push(`${each.short} ${withInterval(each, range)}`);
    }
  }
  const more = [`${why}: ${told.join("; ")}.`];
  const say = (some, one, several, last = "and") => {
    const names = some.map((each) => each.cell.label);
    if (names.length) more.push(names.length > 1 ? several(listed(names, last)) : one(listed(names, last)));
  };
  const by = `By ${axis.short}`;
  say(others.filter((each) => each.same), (names) => `${names} has the same ${axis.short}.`,
    (names) => `${names} have the same ${axis.short}.`);
  say(others.filter((each) => each.apart === false && !each.same),
    (names) => `${by}, ${names} is not told apart from it: the intervals overlap.`,
    (names) => `${by}, ${names} are not told apart from it: the intervals overlap.`);
  const unknown = (names) => `${by}, whether ${names} differ from it by more than chance is not known.`;
  say(others.filter((each) => each.apart === null), unknown, unknown);
  const maybe = (names) => `With more data it might be ${names}.`;
  say(candidates.filter((one) => one.standing === "undecided" && one.minimized[0] !== null
    && one.minimized[0] < best.minimized[0]), maybe, maybe, "or");
  const unlike = data.axes.filter((each) => (each.key === minimize || each.key in limits)
    && best.cell.ranges[each.key][4]);
  if (unlike.length) {
    more.push(`Chosen by ${unlike.map((each) => each.short).join(" and ")}, which is ${data.unlike}`
      + ` (≠): ${best.cell.ranges[unlike[0].key][4]}.`);
  }
  if (best.cell.warned) more.push(best.cell.warned);
  return [best.cell.label, more.join(" ")];
};

// What is typed as a limit: `6GiB`, `1%`, `40ms`, or a number in the unit that is shown.
const UNITS = {
  bytes: { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 },
  seconds: { s: 1, ms: 1e-3, "µs": 1e-6, "μs": 1e-6, us: 1e-6, min: 60 },
  change: { "%": 0.01 },
  percent: { "%": 0.01 },
  number: { "%": 0.01, j: 1, nat: 1, nats: 1 },
};

const typed = (axis, text) => {
  const parts = text.trim().replace("−", "-").match(/^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµμ%]*)$/i);
  if (!parts) return null;
  const [, digits, unit] = parts;
  const known = UNITS[axis.display] ?? {};
  const factor = unit ? known[unit.toLowerCase()] : axis.display in UNITS ? axis.divisor : 1;
  const value = Number(digits) * (factor ?? NaN);
  const possible = Number.isFinite(value) && (axis.changes || value >= 0);
  return possible ? value : null;
};
