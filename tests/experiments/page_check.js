// Runs page.js on the data of a report.html, with stand-ins for the browser's page and for plotly:
//   node page_check.js SCRIPT.js... DATA.json     prints what the page shows after some clicks, as JSON
"use strict";
const fs = require("fs");
const vm = require("vm");

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], textContent: "", value: "", hidden: false, className: "", style: {} });
  }
  append(...children) {
    this.children.push(...children);
  }
  replaceChildren(...children) {
    this.children = children;
  }
  get text() {
    return this.children.length ? this.children.map((child) => child.text).join("|") : this.textContent;
  }
}

const [scripts, source] = [process.argv.slice(2, -1), process.argv.at(-1)];
const elements = {};
const drawn = {};
const at = (id) => (elements[id] ??= new Element(id));
at("data").textContent = fs.readFileSync(source, "utf8");
const theme = { matches: false, addEventListener: (_, change) => (theme.change = change) };
const context = vm.createContext({
  document: { getElementById: at, createElement: (tag) => new Element(tag) },
  matchMedia: () => theme,
  Plotly: { react: (id, traces, layout) => (drawn[id] = { traces, layout }) },
});
for (const script of scripts) vm.runInContext(fs.readFileSync(script, "utf8"), context);

const rows = () => at("runs").children.map((row) => row.children[1].text);
const title = (name) => at("titles").children.find((cell) => cell.text.startsWith(name)).children[0];
const tick = (place, checked) =>
  at("runs").children[place].children[0].children[0].onchange({ target: { checked } });
const table = (id) => at(id).children.map((row) => row.children.map((cell) => cell.text));
const settings = drawn.scatter.traces.map((trace) => [trace.x, trace.y]);
const found = { settings, titles: at("titles").children.map((cell) => cell.text), first: rows(), cells: at("runs").text };

title("test/logloss").onclick();
found.logloss_down = rows();
title("test/logloss").onclick();
found.logloss_up = rows();
title("job").onclick();
title("job").onclick();
found.job_up = rows();
at("filter").value = "DFM=sum seed_3";
at("filter").oninput();
found.nothing = [rows(), at("count").textContent];
at("filter").value = "DFM=sum 0.9";
at("filter").oninput();
found.filtered = [rows(), at("count").textContent, drawn.scatter.traces.map((trace) => trace.x.length)];
at("filter").value = "";
at("filter").oninput();
found.hidden = [at("ticked").hidden, at("hint").hidden];
tick(0, true);
tick(2, true);
found.shown = [at("ticked").hidden, at("hint").hidden];
found.classes = at("runs").children.map((row) => row.className);
found.curves = drawn.curves.traces.map((trace) => [trace.name, trace.x, trace.y]);
at("curve").value = "val/logloss";
at("curve").onchange();
found.logloss_curves = drawn.curves.traces.map((trace) => trace.y);
found.metrics = table("metrics");
found.configs = table("configs");
found.settings_of_two = table("settings");
found.same_colour = drawn.reliability.traces[1].line.color === drawn.curves.traces[0].line.color;
found.calibration = drawn.reliability.traces.slice(1).map((trace) => [trace.x, trace.y, trace.name]);
found.validations = at("validation").max;
found.q = [];
for (const validation of [0, 1]) {
  at("validation").value = String(validation);
  at("validation").oninput();
  found.q.push([at("epoch").textContent, drawn.q.traces.map((trace) => [trace.name, trace.y])]);
}
at("across").value = "seconds";
at("across").onchange();
found.scatter = [drawn.scatter.layout.xaxis.type, drawn.scatter.traces.map((trace) => [trace.name, trace.x, trace.y])];
const light = drawn.curves.layout.font.color;
theme.matches = true;
theme.change();
found.recoloured = drawn.curves.layout.font.color !== light;
found.figures = Object.entries(drawn).map(([id, figure]) => ({ id, ...figure }));
at("filter").value = "wsf";
at("all").onclick();
at("filter").value = "sum";
at("all").onclick();
found.settings_of_four = table("settings");
at("filter").value = "";
at("none").onclick();
found.unticked = [at("ticked").hidden, at("runs").children.map((row) => row.className)];
console.log(JSON.stringify(found));
