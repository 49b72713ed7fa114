"use strict";
// The page of report.html. First plain functions of the data, then what connects them to the page.

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

// The name, colour and marks of the line of a run, which is at a place among the ticked ones.
function lineOf(run, place) {
  const colours = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
  return { name: nameOf(run), mode: "lines+markers", line: { color: colours[place % colours.length] } };
}

// One line per run: its curve over the epochs.
function curveTraces(runs, name) {
  return runs.flatMap((run, place) =>
    run.curves[name] ? [{ x: run.curves.epoch, y: run.curves[name], connectgaps: true, ...lineOf(run, place) }] : [],
  );
}

// One line per run and head: the shares of q's bins at a validation. Heads differ in colour, runs in dashes.
function focusTraces(runs, validation) {
  const dashes = ["solid", "dot", "dash", "dashdot", "longdash", "longdashdot"];
  return runs.filter((run) => run.focus).flatMap((run, place) =>
    focusLines(run.focus, validation, (head) => `${head}: ${nameOf(run)}`, dashes[place % dashes.length]),
  );
}

// One line per run: click rate against probability of its fused head, in the bins of evaluate.py.
function calibrationTraces(runs, split) {
  const lines = runs.flatMap((run, place) => {
    if (!run.calibration[split]) return [];
    const { predicted, clicked, rows } = run.calibration[split].fused;
    return [{ x: predicted, y: clicked, text: rows.map((count) => `${shown(count)} rows`), ...lineOf(run, place) }];
  });
  return [diagonal(), ...lines];
}

// One trace per setting: a dot for each run that has both values.
function scatterTraces(runs, across, up) {
  const traces = new Map();
  const several = new Set(runs.map((run) => run.dataset)).size > 1;
  for (const run of runs) {
    const name = several ? `${run.dataset}: ${run.setting}` : run.setting;
    const [x, y] = [across, up].map((key) => (key === "setting" ? name : cells(run)[key]));
    if (x === null || x === undefined || y === null || y === undefined) continue;
    const more = { name, mode: "markers", type: "scatter", hovertemplate: "%{text}<extra></extra>" };
    if (!traces.has(name)) traces.set(name, { x: [], y: [], text: [], ...more });
    const trace = traces.get(name);
    trace.x.push(x);
    trace.y.push(y);
    trace.text.push([nameOf(run), ...[across, up].filter((key) => key !== "setting").map((key) => `${key} ${shown(cells(run)[key])}`)].join("<br>"));
  }
  return [...traces.values()];
}

// Rows of text, titles first: the keys of the configs in which the runs differ.
function configRows(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const rows = keys.map((key) => [key, ...runs.map((run) => shown(run.config[key]))]);
  return [["key", ...runs.map(nameOf)], ...rows.filter((row) => new Set(row.slice(1)).size > 1)];
}

// The interval of a run's metric by evaluate.py as text; empty without one.
function interval(run, name) {
  const [stage, ...rest] = name.split("/");
  const [, low, high] = run.evaluations[stage === "val" ? "valid" : stage]?.[rest.join("/")] ?? [];
  return low === undefined ? "" : ` [${shown(low)}, ${shown(high)}]`;
}

function signed(value) {
  return `${value >= 0 ? "+" : ""}${shown(value)}`;
}

// Rows of text, titles first: each metric of the runs, and its difference from that of the first run.
function metricRows(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.metrics)))];
  const text = (run, name, place) => {
    const [value, base] = [run.metrics[name], runs[0].metrics[name]];
    const difference = place && typeof value === "number" && typeof base === "number" ? ` (${signed(value - base)})` : "";
    return shown(value) + interval(run, name) + difference;
  };
  const rows = names.map((name) => [name, ...runs.map((run, place) => text(run, name, place))]);
  return [["metric", ...runs.map(nameOf)], ...rows.filter((row) => row.slice(1).some((cell) => cell))];
}

// The mean of a metric by seed, over the runs of a setting.
function bySeed(runs, name) {
  const values = new Map();
  for (const run of runs) {
    const value = run.metrics[name];
    if (typeof value === "number") values.set(run.seed, [...(values.get(run.seed) ?? []), value]);
  }
  return new Map([...values].map(([seed, all]) => [seed, all.reduce((a, b) => a + b) / all.length]));
}

// The mean difference of paired values and its 95 % interval by Student's t, as text.
function difference(own, base, t) {
  const pairs = [...own].filter(([seed]) => base.has(seed)).map(([seed, value]) => value - base.get(seed));
  const [n, mean] = [pairs.length, pairs.reduce((a, b) => a + b, 0) / pairs.length];
  if (n === 0) return "no seed in common";
  if (n === 1) return `${signed(mean)}, 1 seed`;
  const error = Math.sqrt(pairs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1) / n);
  const half = t[n - 2] * error;
  const limits = Number.isFinite(half) ? ` [${signed(mean - half)}, ${signed(mean + half)}]` : "";
  return `${signed(mean)}${limits}, ${n} seeds`;
}

// Rows of text, titles first: differences of the settings of the runs from that of the first run, on its dataset.
function settingRows(runs, t) {
  const groups = new Map();
  for (const run of runs.filter((run) => run.dataset === runs[0].dataset)) groups.set(run.setting, [...(groups.get(run.setting) ?? []), run]);
  const [[first, base], ...others] = groups;
  const names = ["test/auc", "test/gauc", "test/logloss"].filter((name) => base.some((run) => typeof run.metrics[name] === "number"));
  const titles = [`minus ${first}`, ...names];
  return [titles, ...others.map(([setting, own]) => [setting, ...names.map((name) => difference(bySeed(own, name), bySeed(base, name), t))])];
}

// ---- the page ----

const state = { column: "test/auc", down: true, ticked: new Set() };

function options(id, names, onchange) {
  at(id).append(...names.map((name) => element("option", { value: name, textContent: name })));
  at(id).value = names[0];
  at(id).onchange = onchange;
}

function fill(table, rows) {
  table.replaceChildren(...rows.map((row, place) =>
    element("tr", {}, ...row.map((text) => element(place ? "td" : "th", { textContent: text, title: text })))));
}

function shownRuns() {
  return sorted(data.runs.filter((run) => matches(run, at("filter").value)), state.column, state.down);
}

function showRuns() {
  const runs = shownRuns();
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
    const texts = columns.map((column) => {
      const text = shown(cells(run)[column]);
      return element("td", { textContent: text, title: text });
    });
    return element("tr", { className: state.ticked.has(run) ? "ticked" : "" }, element("td", {}, box), ...texts);
  }));
  showScatter(runs);
}

// Against the setting: one line per setting, the best first, as its text is long. Else two numbers.
function showScatter(runs) {
  const [across, up] = [at("across").value, at("up").value];
  if (across !== "setting") {
    const traces = scatterTraces(runs, across, up);
    const xaxis = { type: across === "epochs" ? "linear" : "log" };
    drawTall("scatter", traces, layout(across, up, { xaxis, hovermode: "closest" }));
    return;
  }
  const traces = scatterTraces(sorted(runs, up, !up.endsWith("logloss")), up, "setting");
  at("scatter").style.height = `${Math.max(12, 6 + 1.6 * traces.length)}rem`;
  const lines = { type: "category", autorange: "reversed", title: { text: "" } };
  draw("scatter", traces, layout(up, "", { yaxis: lines, showlegend: false, hovermode: "closest" }));
}

// A chart that is as much higher as its legend: one line for each long name.
function drawTall(id, traces, plan) {
  at(id).style.height = `${22 + 1.4 * traces.length}rem`;
  draw(id, traces, { ...plan, legend: { ...plan.legend, orientation: "v" } });
}

function showTicked() {
  const runs = [...state.ticked];
  at("ticked").hidden = !runs.length;
  at("hint").hidden = runs.length > 0;
  if (!runs.length) return;
  const curve = at("curve").value;
  const curves = curveTraces(runs, curve);
  at("curves").hidden = !curves.length;
  at("no-curves").hidden = curves.length > 0;
  if (curves.length) drawTall("curves", curves, layout("epoch", curve));
  showFocus(runs.filter((run) => run.focus));
  showCalibration(runs);
  fill(at("metrics"), metricRows(runs));
  const settings = settingRows(runs, data.t);
  at("differences").hidden = settings.length < 2;
  fill(at("settings"), settings);
  at("unlike").hidden = runs.length < 2;
  fill(at("configs"), configRows(runs));
}

function showFocus(runs) {
  at("focus").hidden = !runs.length;
  if (!runs.length) return;
  const longest = runs.map((run) => run.focus.epochs).sort((a, b) => b.length - a.length)[0];
  at("validation").max = longest.length - 1;
  const validation = Math.min(Number(at("validation").value), longest.length - 1);
  at("epoch").textContent = `after epoch ${longest[validation]}`;
  drawTall("q", focusTraces(runs, validation), layout("q", "share of rows", { xaxis: { range: [0, 1] } }));
}

function showCalibration(runs) {
  const split = at("split").value;
  const traces = calibrationTraces(runs, split);
  at("calibration").hidden = !splits.length;
  at("no-calibration").hidden = splits.length > 0;
  if (splits.length) drawTall("reliability", traces, layout("predicted probability", "click rate", { hovermode: "closest" }));
}

function show() {
  showRuns();
  showTicked();
}

const data = JSON.parse(at("data").textContent);
const columns = columnsOf(data.runs);
const splits = ["test", "valid", "train"].filter((split) => data.runs.some((run) => run.calibration[split]));
const has = (names) => names.filter((name) => columns.includes(name));
options("across", has(["setting", "parameters", "seconds", "epochs"]), showRuns);
options("up", has(["test/auc", "test/gauc", "test/logloss", "val/auc"]), showRuns);
options("curve", ["val/auc", "val/gauc", "val/logloss", "train/loss"].filter((name) =>
  data.runs.some((run) => run.curves[name])), showTicked);
options("split", splits, showTicked);
at("filter").oninput = showRuns;
at("validation").value = 0;
at("validation").oninput = showTicked;
at("none").onclick = () => {
  state.ticked.clear();
  show();
};
at("all").onclick = () => {
  for (const run of shownRuns()) state.ticked.add(run);
  show();
};
if (data.runs.length === 1) state.ticked.add(data.runs[0]);
start(show);
