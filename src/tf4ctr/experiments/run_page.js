"use strict";
// The page of a run: index.html.

// The chart of a panel of curves: a line per column of metrics.csv.
function panelTraces(curves, panel) {
  return panel.lines.map(({ name, y, colour, style }) => ({
    x: curves.epoch, y, name, mode: "lines+markers", connectgaps: true,
    marker: { size: 5 }, line: { color: colour ?? "#888", dash: style },
  }));
}

// The best validation as a solid vertical line, the falls of the learning rate as dotted ones.
function marks(curves) {
  const line = (x, dash) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: "#888", width: 1, dash } });
  const best = curves.best === null ? [] : [line(curves.best, "solid")];
  return [...best, ...curves.falls.map((epoch) => line(epoch, "dot"))];
}

// One line per head: its mean weight in the fusion, over the epochs.
function weightTraces(focus) {
  return Object.entries(focus.weights).map(([head, y]) => ({
    x: focus.epochs, y, name: head, mode: "lines+markers", line: { color: focus.colours[head] },
  }));
}

// One line per head: click rate against probability.
function calibrationTraces(heads, colours) {
  const lines = Object.entries(heads).map(([head, { predicted, clicked, rows }]) => ({
    x: predicted, y: clicked, text: rows.map((count) => `${shown(count)} rows`), name: head, mode: "lines+markers",
    line: { color: colours[head] },
  }));
  return [diagonal(), ...lines];
}

// ---- the page ----

function showCurves() {
  const curves = data.curves;
  at("no-curves").hidden = Boolean(curves);
  at("lines").hidden = !curves;
  for (const [place, panel] of (curves?.panels ?? []).entries()) {
    const id = `panel-${place}`;
    if (!at(id))
      at("curves").append(element("div", {}, element("h3", { textContent: panel.title }), element("div", { className: "chart", id })));
    draw(id, panelTraces(curves, panel), layout("epoch", "", { shapes: marks(curves), hovermode: "x unified" }));
  }
}

function showHeads() {
  const focus = data.focus;
  at("heads").hidden = !focus;
  at("no-heads").hidden = Boolean(focus);
  if (!focus) return;
  const validation = Number(at("validation").value);
  at("epoch").textContent = `after epoch ${focus.epochs[validation]}`;
  // the same height at all validations, so that they can be compared
  const highest = Math.max(...Object.values(focus.q).flat(2));
  const [xaxis, yaxis] = [{ range: [0, 1] }, { range: [0, 1.05 * highest] }];
  draw("q", focusLines(focus, validation), layout("q", "share of rows", { xaxis, yaxis }));
  const weights = weightTraces(focus);
  at("weights").hidden = !weights.length;
  if (weights.length) draw("weights", weights, layout("epoch", "mean weight in the fusion"));
}

function showCalibration() {
  const heads = data.calibration[at("split").value];
  at("calibration").hidden = !heads;
  at("no-calibration").hidden = Boolean(heads);
  if (heads) draw("reliability", calibrationTraces(heads, data.colours), layout("predicted probability", "click rate"));
}

function showConfig() {
  const words = at("filter").value.toLowerCase().split(/\s+/);
  for (const row of at("config").querySelectorAll("tbody tr"))
    row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
}

function show() {
  showCurves();
  showHeads();
  showCalibration();
}

const data = JSON.parse(at("data").textContent);
const splits = ["test", "valid", "train"].filter((split) => data.calibration[split]);
at("split").append(...splits.map((name) => element("option", { value: name, textContent: name })));
at("split").onchange = showCalibration;
if (data.focus) at("validation").max = data.focus.epochs.length - 1;
at("validation").value = data.focus ? data.focus.epochs.length - 1 : 0;
at("validation").oninput = showHeads;
at("filter").oninput = () => {
  at("config").open = true;
  showConfig();
};
start(show);
