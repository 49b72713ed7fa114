"use strict";
// What report.html and index.html have in common: texts, elements, charts by plotly.js.

// A number as text; small differences of metrics stay visible.
function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) < 5e-6 ? value.toExponential(1) : value.toFixed(Math.abs(value) < 10 ? 5 : 1);
}

const at = (id) => document.getElementById(id);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// The layout of a chart with titles of its axes. The legend is above, where it covers nothing.
function layout(x, y, { xaxis = {}, yaxis = {}, ...more } = {}) {
  const dark = isDark();
  const axis = { gridcolor: dark ? "#3a3f46" : "#e3e6ea", zerolinecolor: dark ? "#3a3f46" : "#e3e6ea", automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: dark ? "#e3e5e8" : "#1c1e21" },
    margin: { t: 20, r: 20, b: 50 }, showlegend: true,
    legend: { font: { size: 11 }, orientation: "h", x: 0, y: 1.03, yanchor: "bottom" },
    hoverlabel: { namelength: -1, align: "left", bgcolor: dark ? "#22262b" : "#fff", font: { color: dark ? "#e3e5e8" : "#1c1e21" } },
    ...more,
    xaxis: { ...axis, title: { text: x }, ...xaxis },
    yaxis: { ...axis, title: { text: y }, hoverformat: ".5f", ...yaxis },
  };
}

// The lines of the q of heads at a validation: of each head, the shares of the rows in its bins.
function focusLines(focus, validation, name = (head) => head, dash = "solid") {
  return Object.entries(focus.q).map(([head, rows]) => {
    const shares = rows[Math.min(validation, rows.length - 1)];
    const middles = shares.map((_, bin) => (bin + 0.5) / shares.length);
    return { x: middles, y: shares, name: name(head), mode: "lines", line: { shape: "hvh", color: focus.colours[head], dash } };
  });
}

// The diagonal of a calibration chart, on which a head is right on average.
function diagonal() {
  return { x: [0, 1], y: [0, 1], mode: "lines", line: { color: "#888", width: 1 }, hoverinfo: "skip", showlegend: false };
}

function draw(target, traces, plan) {
  if (typeof Plotly === "undefined") return; // not unpacked yet
  Plotly.react(target, traces, plan, { responsive: true, displayModeBar: false }); // the bar would cover the legend
}

// plotly.js is in the page as text: compressed by gzip, in base64.
async function unpackPlotly() {
  const bytes = Uint8Array.from(atob(at("plotly").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(element("script", { textContent: await new Response(stream).text() }));
}

// Show the page now, again with charts, and again when the browser changes between light and dark.
function start(show) {
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  if (typeof Plotly !== "undefined") return;
  unpackPlotly().then(show, (error) => {
    at("old").hidden = false;
    at("old").textContent += ` (${error.message})`;
  });
}
