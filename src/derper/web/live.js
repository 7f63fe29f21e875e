// Keeps a page current: asks the address in <body data-live> every two seconds, writes each value into the elements
// that name it in data-value, and draws the rates of counters as charts into those that name it in data-rate.
"use strict";

const SECONDS = 2;
const POINTS = 90;
const UNITS = { bytes: ["B/s", "kB/s", "MB/s", "GB/s"], packets: ["/s", "k/s", "M/s", "G/s"] };
const history = new Map();
let before = null;

function format(value, kind) {
  const units = UNITS[kind];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = value >= 100 || at === 0 ? 0 : 1;
  return [value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }), units[at]];
}

function draw(svg, points) {
  const top = Math.max(1, ...points);
  const place = (value, at) => `${(POINTS - points.length + at).toFixed(1)},${(30 - (28 * value) / top).toFixed(2)}`;
  const line = "M" + points.map(place).join("L");
  svg.querySelector("path.line").setAttribute("d", points.length > 1 ? line : "");
  const area = points.length > 1 ? `${line}L${POINTS - 1},30L${POINTS - points.length},30Z` : "";
  svg.querySelector("path.area").setAttribute("d", area);
}

function show(now) {
  for (const element of document.querySelectorAll("[data-value]")) {
    const value = now.values[element.dataset.value];
    element.textContent = typeof value === "number" ? value.toLocaleString("en") : value;
  }
  if (before !== null && now.at > before.at) {
    for (const element of document.querySelectorAll("[data-rate]")) {
      const name = element.dataset.rate;
      const rate = Math.max(0, (now.counters[name] - before.counters[name]) / (now.at - before.at));
      const points = history.get(name) ?? [];
      points.push(rate);
      history.set(name, points.slice(-POINTS));
      const [value, unit] = format(rate, element.dataset.kind);
      const small = document.createElement("span");
      small.textContent = ` ${unit}`;
      element.querySelector(".figure").replaceChildren(value, small);
      draw(element.querySelector("svg"), history.get(name));
    }
  }
  before = now;
}

async function ask() {
  try {
    const answer = await fetch(document.body.dataset.live, { cache: "no-store" });
    if (answer.ok) {
      show(await answer.json());
      document.body.dataset.state = "live";
    } else {
      document.body.dataset.state = `stopped: ${answer.status}`;
    }
  } catch (error) {
    document.body.dataset.state = "stopped: no answer";
  }
  setTimeout(ask, SECONDS * 1000);
}

ask();
