"use strict";
// The page of report.html. First plain functions of the data, then what connects them to the page.

// A number as text; small differences of metrics stay visible.
function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(Math.abs(value) < 10 ? 5 : 1);
}

// Column -> value of a run.
function cells(run) {
  return { job: run.job, dataset: run.dataset, setting: run.setting, seed: run.seed, ...run.metrics, reason: run.error };
}

// The columns of the table: without those that no run has, and only the metrics of the whole model.
function columnsOf(runs) {
  const first = ["test/auc", "test/logloss", "test/gauc", "val/auc", "parameters", "epochs", "seconds"];
  const names = ["job", "dataset", "setting", "seed", ...first, "reason"];
  const known = new Set();
  for (const run of runs)
    for (const [name, value] of Object.entries(cells(run))) if (value !== null && value !== undefined) known.add(name);
  return names.filter((name) => known.has(name));
}

// Numbers by size, texts by alphabet with numbers inside by size; unknown values last in both directions.
function sorted(runs, column, down) {
  const order = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const missing = (value) => value === null || value === undefined;
  return [...runs].sort((one, other) => {
    const [a, b] = [cells(one)[column], cells(other)[column]];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return down ? order(b, a) : order(a, b);
  });
}

// Whether every word of the filter occurs in a run's texts, numbers or config.
function matches(run, words) {
  const config = Object.entries(run.config).map(([key, value]) => `${key}=${shown(value)}`);
  const text = [...Object.values(cells(run)).map(shown), run.run, ...config].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function nameOf(run) {
  return `${run.job}, ${run.setting}, seed ${run.seed}`;
}

// One line per run: its curve over the epochs.
function curveTraces(runs, name) {
  return runs
    .filter((run) => run.curves[name])
    .map((run) => ({ x: run.curves.epoch, y: run.curves[name], name: nameOf(run), mode: "lines+markers", connectgaps: true }));
}

// One line per run and head: the shares of q's bins at a validation.
function focusTraces(runs, validation) {
  return runs.filter((run) => run.focus).flatMap((run) =>
    Object.entries(run.focus.q).map(([head, rows]) => {
      const shares = rows[Math.min(validation, rows.length - 1)];
      const middles = shares.map((_, bin) => (bin + 0.5) / shares.length);
      return { x: middles, y: shares, name: `${head}: ${nameOf(run)}`, mode: "lines", line: { shape: "hvh" } };
    }),
  );
}

// One trace per setting: a dot for each run that has both values.
function scatterTraces(runs, across, up) {
  const traces = new Map();
  for (const run of runs) {
    const [x, y] = [cells(run)[across], cells(run)[up]];
    if (x === null || x === undefined || y === null || y === undefined) continue;
    const name = run.dataset ? `${run.dataset}: ${run.setting}` : run.setting;
    if (!traces.has(name)) traces.set(name, { x: [], y: [], text: [], name, mode: "markers", type: "scatter" });
    const trace = traces.get(name);
    trace.x.push(x);
    trace.y.push(y);
    trace.text.push(nameOf(run));
  }
  return [...traces.values()];
}

// Rows of text, titles first: the keys of the configs in which the runs differ.
function configRows(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const rows = keys.map((key) => [key, ...runs.map((run) => shown(run.config[key]))]);
  return [["key", ...runs.map(nameOf)], ...rows.filter((row) => new Set(row.slice(1)).size > 1)];
}

// Rows of text, titles first: each metric of the runs, and its difference from that of the first run.
function metricRows(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.metrics)))];
  const text = (run, name, place) => {
    const [value, base] = [run.metrics[name], runs[0].metrics[name]];
    if (place === 0 || typeof value !== "number" || typeof base !== "number") return shown(value);
    return `${shown(value)} (${value >= base ? "+" : ""}${shown(value - base)})`;
  };
  return [["metric", ...runs.map(nameOf)], ...names.map((name) => [name, ...runs.map((run, place) => text(run, name, place))])];
}

// ---- the page ----

const state = { column: "test/auc", down: true, ticked: new Set() };
const at = (id) => document.getElementById(id);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function layout(x, y, { xaxis = {}, yaxis = {}, ...more } = {}) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const axis = { gridcolor: dark ? "#3a3f46" : "#e3e6ea", automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: dark ? "#e3e5e8" : "#1c1e21" },
    margin: { t: 20, r: 20 }, showlegend: true, legend: { font: { size: 10 }, orientation: "h", y: -0.2 }, ...more,
    xaxis: { ...axis, title: { text: x }, ...xaxis }, yaxis: { ...axis, title: { text: y }, ...yaxis },
  };
}

function draw(id, traces, plan) {
  Plotly.react(at(id), traces, plan, { responsive: true, displaylogo: false });
}

function options(id, names, onchange) {
  at(id).append(...names.map((name) => element("option", { value: name, textContent: name })));
  at(id).value = names[0];
  at(id).onchange = onchange;
}

function fill(table, rows) {
  table.replaceChildren(...rows.map((row, place) =>
    element("tr", {}, ...row.map((text) => element(place ? "td" : "th", { textContent: text })))));
}

function showRuns() {
  const runs = sorted(data.runs.filter((run) => matches(run, at("filter").value)), state.column, state.down);
  at("count").textContent = `${runs.length} of ${data.runs.length} runs`;
  at("titles").replaceChildren(element("th", {}), ...columns.map((column) => {
    const arrow = column === state.column ? (state.down ? " ▼" : " ▲") : "";
    const onclick = () => {
      state.down = column === state.column ? !state.down : true;
      state.column = column;
      showRuns();
    };
    return element("th", {}, element("button", { textContent: column + arrow, onclick }));
  }));
  at("runs").replaceChildren(...runs.map((run) => {
    const onchange = (event) => {
      if (event.target.checked) state.ticked.add(run);
      else state.ticked.delete(run);
      showRuns();
      showTicked();
    };
    const box = element("input", { type: "checkbox", checked: state.ticked.has(run), onchange, title: run.run });
    const texts = columns.map((column) => element("td", { textContent: shown(cells(run)[column]) }));
    return element("tr", { className: state.ticked.has(run) ? "ticked" : "" }, element("td", {}, box), ...texts);
  }));
  showScatter(runs);
}

// Against the setting: one line per setting, the best first, as its text is long. Else two numbers.
function showScatter(runs) {
  const [across, up] = [at("across").value, at("up").value];
  if (across !== "setting") {
    at("scatter").style.height = "";
    draw("scatter", scatterTraces(runs, across, up), layout(across, up, { xaxis: { type: across === "epochs" ? "linear" : "log" } }));
    return;
  }
  const traces = scatterTraces(sorted(runs, up, !up.endsWith("logloss")), up, "setting");
  at("scatter").style.height = `${Math.max(16, 8 + 1.6 * traces.length)}rem`;
  const lines = { type: "category", autorange: "reversed", title: { text: "" } };
  draw("scatter", traces, layout(up, "", { yaxis: lines, showlegend: false }));
}

function showTicked() {
  const runs = [...state.ticked];
  at("ticked").hidden = !runs.length;
  at("hint").hidden = runs.length > 0;
  if (!runs.length) return;
  draw("curves", curveTraces(runs, at("curve").value), layout("epoch", at("curve").value));
  const seen = runs.filter((run) => run.focus);
  at("focus").hidden = !seen.length;
  if (seen.length) {
    const longest = seen.map((run) => run.focus.epochs).sort((a, b) => b.length - a.length)[0];
    at("validation").max = longest.length - 1;
    const validation = Math.min(Number(at("validation").value), longest.length - 1);
    at("epoch").textContent = `after epoch ${longest[validation]}`;
    draw("q", focusTraces(seen, validation), layout("q", "share of rows", { xaxis: { range: [0, 1] } }));
  }
  fill(at("metrics"), metricRows(runs));
  fill(at("configs"), configRows(runs));
}

const data = JSON.parse(at("data").textContent);
const columns = columnsOf(data.runs);
const has = (names) => names.filter((name) => columns.includes(name));
options("across", has(["setting", "parameters", "seconds", "epochs"]), showRuns);
options("up", has(["test/auc", "test/gauc", "test/logloss", "val/auc"]), showRuns);
options("curve", ["val/auc", "val/gauc", "val/logloss", "train/loss"].filter((name) =>
  data.runs.some((run) => run.curves[name])), showTicked);
at("filter").oninput = showRuns;
at("validation").value = 0;
at("validation").oninput = showTicked;
at("none").onclick = () => {
  state.ticked.clear();
  showRuns();
  showTicked();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  showRuns();
  showTicked();
});
showRuns();
showTicked();
