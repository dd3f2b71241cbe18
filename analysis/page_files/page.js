"use strict";
// Chooses from DATA and draws it. Every text goes into the page as text, never as HTML.

const VIEWS = {
  overview: ["Overview", overview, ["experiment", "model", "rule", "rates"]],
  tradeoffs: ["Trade-offs", tradeoffs, ["experiment", "model", "task", "rule", "rates", "machine"]],
  rates: ["Learning rates", rates, ["experiment", "model", "task", "rule"]],
  curves: ["Training curves", curves, ["experiment", "model", "task", "rates"]],
  ranks: ["Rank and layers", ranks, ["experiment", "model", "task", "rule"]],
  memory: ["Memory", memory, ["experiment", "model", "task", "rates", "machine"]],
  compare: ["Compare two", compare, ["experiment", "model", "task", "a", "b"]],
  claims: ["Claims", claims, []],
  tables: ["Published tables", tables, ["table"]],
  run: ["Run", showRun, []],
};
const RUNS = new Map(DATA.runs.map((run) => [run.id, run]));
const main = document.getElementById("main");

// State: it lives in the address, so that a view can be linked to

function state() {
  const words = new URLSearchParams(location.hash.slice(1));
  const found = Object.fromEntries(words);
  if (!(found.view in VIEWS)) found.view = "overview";
  const need = (key, all) => { if (!all.includes(found[key])) found[key] = all[0]; };
  const experiments = unique(DATA.settings, "experiment");
  if (!experiments.includes(found.experiment)) found.experiment = experiments.includes(DATA.first) ? DATA.first : experiments[0];
  need("model", unique(DATA.settings.filter((s) => s.experiment === found.experiment), "model"));
  need("task", unique(DATA.settings.filter(inStudy(found)), "task"));
  need("machine", machines(found));
  need("rule", rulesOf(found).map(([name]) => name));
  need("rates", ratesOf(found).map(([name]) => name));
  const pairs = comparable(found);
  need("a", pairs);
  need("b", pairs.filter((label) => label !== found.a));
  need("table", DATA.tables.map((t) => t.title));
  return found;
}
function go(changes) {
  location.hash = new URLSearchParams({ ...state(), ...changes }).toString();
}
const inStudy = (now) => (x) => x.experiment === now.experiment && x.model === now.model;
const onTask = (now) => (x) => inStudy(now)(x) && x.task === now.task;
// what held-out data can choose: nothing, where no run of the study held any out
const heldOut = (now) => DATA.settings.filter(inStudy(now)).some((s) => s.held_out);
const rulesOf = (now) => [...(heldOut(now) ? [["held-out", "chosen on held-out data"]] : []), ["best", "best on validation"]];
const ratesOf = (now) => [...(heldOut(now) ? [["chosen", "chosen on held-out data"]] : []), ["all", "all"]];
const unique = (rows, key) => [...new Set(rows.map((row) => row[key]))];
const shown = (now, rows) => rows.filter((s) => now.rates === "all" || s.chosen);
function machines(now) {
  const counts = new Map();
  for (const s of DATA.settings.filter(onTask(now)).filter((s) => s.chosen)) for (const name of Object.keys(s.cost)) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
}
const comparable = (now) => unique(DATA.settings.filter((s) => onTask(now)(s) && s.chosen && s.scores["held-out"]), "label");

// Elements

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const link = (text, action) => element("button", { class: "link", type: "button", onclick: action }, text);
const figure = (x, digits = 1) => (x === null || x === undefined ? "" : x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads some tags
function interval(s) {
  if (!s) return "";
  return s.low === null ? `${figure(s.mean)} (n = ${s.n})` : `${figure(s.mean)} (${figure(s.low)} to ${figure(s.high)}, n = ${s.n})`;
}

// A table whose columns are sorted by a click. A cell: text, a number, or {text, value, shade, action, kind}
function table(caption, columns, rows) {
  const body = element("tbody");
  const value = (cell) => (cell !== null && typeof cell === "object" ? (cell.value ?? cell.text) : cell);
  const heads = columns.map((name, place) => {
    const head = element("th", { scope: "col", "aria-sort": "none" });
    head.append(element("button", { type: "button", onclick: () => sort(place, head) }, name));
    if (rows.some((row) => (row[place]?.kind ?? typeof value(row[place])) === "number")) head.classList.add("number");
    return head;
  });
  function sort(place, head) {
    const up = head.getAttribute("aria-sort") === "descending" || (head.getAttribute("aria-sort") === "none" && typeof rows.map((r) => value(r[place])).find((v) => v !== null && v !== "") !== "number");
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const empty = (v) => v === null || v === undefined || v === "";
    rows = [...rows].sort((one, other) => {
      const [a, b] = [value(one[place]), value(other[place])];
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      return (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })) * (up ? 1 : -1);
    });
    fill();
  }
  function fill() {
    body.replaceChildren(...rows.map((row) => element("tr", {}, ...row.map((cell) => {
      const own = cell !== null && typeof cell === "object" ? cell : { text: cell, value: cell };
      const text = typeof own.text === "number" ? String(own.text) : (own.text ?? "");
      const kind = own.kind ?? (typeof own.value === "number" ? "number" : "text");
      const made = element("td", { class: kind }, own.action && text ? link(text, own.action) : text);
      if (own.shade !== undefined) made.style.background = `rgba(var(--shade), ${(0.35 * own.shade).toFixed(3)})`;
      return made;
    }))));
  }
  fill();
  return element("div", { class: "wide" }, element("table", {}, element("caption", { class: "quiet" }, caption), element("thead", {}, element("tr", {}, ...heads)), body));
}

// The plotting library is large: it is loaded after the first view is shown
let library;
const plotly = () => (library ??= new Promise((resolve) => document.head.append(element("script", { src: "plotly.min.js", onload: resolve }))));

// A plot, with its numbers as a table for those who cannot see it
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function plot(title, traces, layout, columns, rows, onclick) {
  const place = element("div", { class: "plot", role: "img", "aria-label": `${title}; its numbers are in the table below` });
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const whole = {
    title: { text: plain(title), font: { size: 14 }, x: 0.01, xanchor: "left" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--text") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), size: 12 }, margin: { l: 55, r: 15, t: 40, b: 45 }, hovermode: "closest",
    legend: { orientation: "h", y: -0.2 }, showlegend: false, ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  plotly().then(() => {
    if (!place.isConnected) return; // another view was chosen while the library loaded
    Plotly.newPlot(place, traces, whole, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
    if (onclick) place.on("plotly_click", (event) => onclick(event.points[0]));
  });
  return element("section", {}, place, element("details", {}, element("summary", {}, "numbers"), table(title, columns, rows)));
}
function style(method) {
  const look = DATA.methods[method];
  // black on a dark ground cannot be seen
  const ink = look.colour === "#000000" ? colour("--text") : look.colour;
  return { colour: ink, symbol: look.symbol, dash: look.dash };
}
const SHAPES = { circle: "\u25cf", square: "\u25a0", "triangle-up": "\u25b2", "triangle-down": "\u25bc", "triangle-left": "\u25c0", "triangle-right": "\u25b6", diamond: "\u25c6", "diamond-tall": "\u2666", cross: "\u271a", x: "\u2716", hexagon: "\u2b22", hexagon2: "\u2b23", pentagon: "\u2b1f", star: "\u2605", "line-ew-open": "\u2015", octagon: "\u2bc3", "y-down-open": "\u2144", "y-up-open": "\u03bb", "y-left-open": "\u2443" };
// [text, colour, symbol] lines above the plots, which have no legend of their own: it would lie on their axes
function legend(entries) {
  return element("ul", { class: "legend" }, ...entries.map(([text, ink, symbol]) => {
    const mark = element("span", { "aria-hidden": true }, SHAPES[symbol] + " ");
    mark.style.color = ink;
    return element("li", {}, mark, text);
  }));
}
// a symbol for each name: the first of a method's settings has the method's own, the others the next ones
function symbols(settings, name) {
  const own = new Map();
  for (const s of settings) {
    const taken = settings.filter((other) => other.method === s.method && own.has(other[name])).map((other) => own.get(other[name]));
    if (!own.has(s[name])) own.set(s[name], [style(s.method).symbol, ...Object.keys(SHAPES)].find((shape) => !taken.includes(shape)) ?? "circle");
  }
  return own;
}
function legendOf(settings, name) {
  const marks = symbols(settings, name);
  return legend([...new Map(settings.map((s) => [s[name], [s[name], style(s.method).colour, marks.get(s[name])]])).values()]);
}
const rateText = (x) => (x < 1e-3 ? x.toExponential() : String(x));
function logAxis(values, name) {
  const [low, high] = [Math.min(...values), Math.max(...values)], ticks = [];
  for (let decade = 10 ** Math.floor(Math.log10(low / 2)); decade <= high * 10; decade *= 10) ticks.push(...(high / low > 300 ? [1] : high / low > 20 ? [1, 3] : [1, 2, 3, 4, 5, 7]).map((x) => x * decade));
  const short = (x) => (x >= 1e6 ? `${+(x / 1e6).toPrecision(3)}M` : x >= 1e4 ? `${+(x / 1e3).toPrecision(3)}k` : x < 1e-3 ? (+x.toPrecision(1)).toExponential() : String(+x.toPrecision(3)));
  const middle = Math.sqrt(low * high); // a factor of four at least: ticks lie in it, and a few per cent look like a few
  const range = [Math.min(low / 1.3, middle / 2), Math.max(high * 1.3, middle * 2)].map(Math.log10);
  return { type: "log", title: { text: name }, range, tickvals: ticks, ticktext: ticks.map(short) };
}
const scoreName = (now) => `${DATA.metrics[now.task]} on ${DATA.tasks[now.task]}, x 100`;
const bars = (found) => ({
  type: "data", symmetric: false, thickness: 1.2,
  array: found.map((s) => (s && s.low !== null ? s.high - s.mean : 0)), arrayminus: found.map((s) => (s && s.low !== null ? s.mean - s.low : 0)),
});
const openRun = (point) => { if (point.customdata && RUNS.has(point.customdata)) go({ view: "run", run: point.customdata }); };
function runScore(run, rule) {
  return rule === "held-out" && run.chosen ? run.chosen.score : run.best;
}
const doneRuns = (setting) => setting.runs.map((id) => RUNS.get(id)).filter((run) => run.status === "complete");

// Views

function overview(now) {
  const own = shown(now, DATA.settings.filter(inStudy(now)));
  const tasks = Object.keys(DATA.tasks).filter((task) => own.some((s) => s.task === task));
  const byRates = now.rates === "all" ? "label" : "family";
  const lines = unique(own, byRates).map((name) => own.filter((s) => s[byRates] === name));
  const ends = tasks.map((task) => {
    const means = own.filter((s) => s.task === task && s.scores[now.rule]).map((s) => s.scores[now.rule].mean);
    return [Math.min(...means), Math.max(...means)];
  });
  const rows = lines.map((line) => [
    { text: line[0][byRates], action: () => go({ view: "curves", task: line[0].task }) },
    ...tasks.map((task, place) => {
      const setting = line.find((s) => s.task === task);
      const score = setting?.scores[now.rule];
      if (!score) return setting ? { text: `${setting.failed} failed`, value: null } : null;
      const [low, high] = ends[place];
      const flag = setting.collapsed ? ` ‡${setting.collapsed}` : "";
      return {
        text: interval(score) + flag, value: score.mean, kind: "number", shade: high > low ? (score.mean - low) / (high - low) : 0,
        action: () => go({ view: "run", run: setting.runs[0], of: setting.runs.join(" "), task }),
      };
    }),
    { text: figure(line[0].parameters, 0), value: line[0].parameters },
    { text: tasks.map((task) => line.find((s) => s.task === task)?.learning_rate).map((rate) => (rate ? rateText(rate) : "-")).join(" / "), kind: "number" },
  ]);
  return [
    table(`Mean over seeds (95 % t interval, n seeds); a stronger shade is a higher score of its column`, ["method", ...tasks.map((task) => DATA.tasks[task]), "trained, without the head", `learning rate${tasks.length > 1 ? `, ${tasks.map((task) => DATA.tasks[task]).join(" / ")}` : ""}`], rows),
    element("p", {}, `${now.model}, experiment ${now.experiment}, ${unique(own, "epochs").join(" and ")} epochs. The main metric on the validation set, times 100. ${now.rule === "best" ? "The epoch is the best one on the validation set itself, which flatters." : "The epoch is the one that held-out data choose, where runs hold some out."}${heldOut(now) ? "" : " No run held data out."} ${now.rates === "chosen" ? "Each method is at the learning rate that held-out data choose." : ""} ‡: runs that gave every example the same answer. Click a score to open its runs, or a column's name to sort.`),
  ];
}

function tradeoffs(now) {
  const own = shown(now, DATA.settings.filter(onTask(now))).filter((s) => s.scores[now.rule]);
  const costs = (s) => s.cost[now.machine] ?? {};
  const quantities = [
    ["trained, without the head", (s) => s.parameters],
    ["samples/s", (s) => costs(s).samples_per_second],
    ["training memory, MiB", (s) => (costs(s).weights ? MEMORY.reduce((sum, [part]) => sum + costs(s)[part], 0) / 2 ** 20 : null)],
  ];
  const marks = symbols(own, "label");
  const alone = now.experiment !== "training_cost" && unique(DATA.settings, "experiment").includes("training_cost") ? link("training_cost was measured alone.", () => go({ experiment: "training_cost", view: "memory" })) : null;
  const plots = quantities.map(([name, size]) => {
    const placed = own.filter(size);
    if (!placed.length) return element("p", {}, `${name}: not measured on this machine.`);
    const levels = own.filter((s) => ["full", "head"].includes(s.method) && s.chosen);
    const traces = placed.flatMap((s) => {
      const look = style(s.method), runs = doneRuns(s);
      const hover = runs.map((run) => plain(`${run.name}: ${figure(runScore(run, now.rule))}`));
      return [
        { type: "scatter", mode: "markers", x: runs.map(() => size(s)), y: runs.map((run) => runScore(run, now.rule)), customdata: runs.map((run) => run.id), text: hover, hoverinfo: "text", marker: { color: look.colour, size: 4, opacity: 0.45 }, showlegend: false, legendgroup: s.label },
        { type: "scatter", mode: "markers", x: [size(s)], y: [s.scores[now.rule].mean], error_y: { ...bars([s.scores[now.rule]]), color: look.colour }, name: plain(s.label), legendgroup: s.label, text: [plain(`${s.label}: ${interval(s.scores[now.rule])}<br>`).replace("&lt;br>", "<br>") + hover.join("<br>")], hoverinfo: "text", marker: { color: look.colour, symbol: marks.get(s.label), size: 10 } },
      ];
    });
    const shapes = levels.map((s) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: s.scores[now.rule].mean, y1: s.scores[now.rule].mean, line: { color: style(s.method).colour, width: 1, dash: "dot" } }));
    return plot(name, traces, { shapes, xaxis: logAxis(placed.map(size), name), yaxis: { title: { text: plain(scoreName(now)) } } },
      ["runs", name, "score"], placed.map((s) => [s.label, +size(s).toPrecision(4), { text: interval(s.scores[now.rule]), value: s.scores[now.rule].mean }]), openRun);
  });
  return [
    element("p", {}, "A large point is a setting's mean with its 95 % t interval, a small one a run: hover names it, a click opens it. Dashed: full fine-tuning and the head alone, where they have runs. No interval from fewer than three seeds."),
    element("p", { class: "quiet" }, `Speed and memory are of ${now.machine}, medians over its runs. Memory is what training holds, tensor by tensor: weights, gradients, optimizer state and activations. Speeds compare only where nothing else ran on the machine${now.experiment === "training_cost" ? ", as here." : ": not while a grid trains. "}`, alone),
    legendOf(own, "label"),
    element("div", { class: "plots" }, ...plots),
  ];
}

function rates(now) {
  const own = DATA.settings.filter(onTask(now)).filter((s) => s.scores[now.rule] && s.learning_rate);
  const lines = unique(own, "family").map((name) => own.filter((s) => s.family === name).sort((a, b) => a.learning_rate - b.learning_rate)).filter((line) => line.length > 1);
  if (!lines.length) return [element("p", {}, "No method has two learning rates here.")];
  const marks = symbols(lines.flat(), "family");
  const traces = lines.flatMap((line) => {
    const look = style(line[0].method), found = line.map((s) => s.scores[now.rule]);
    const stars = line.filter((s) => s.chosen && s.held_out);
    return [
      { type: "scatter", mode: "lines+markers", name: plain(line[0].family), x: line.map((s) => s.learning_rate), y: found.map((s) => s.mean), error_y: { ...bars(found), color: look.colour }, text: line.map((s) => plain(`${s.label}: ${interval(s.scores[now.rule])}`)), hoverinfo: "text", line: { color: look.colour, dash: look.dash }, marker: { symbol: marks.get(line[0].family), size: 8 } },
      { type: "scatter", mode: "markers", x: stars.map((s) => s.learning_rate), y: stars.map((s) => s.scores[now.rule].mean), marker: { symbol: "star", size: 18, color: look.colour, opacity: 0.4 }, hoverinfo: "skip", showlegend: false },
    ];
  });
  return [
    element("p", {}, `Mean over seeds, with a 95 % t interval from three seeds on. ${heldOut(now) ? "A star marks the rate that held-out data choose." : "No data were held out to choose one."}`),
    legendOf(lines.flat(), "family"),
    plot(`${scoreName(now)} by learning rate`, traces, { xaxis: logAxis(lines.flat().map((s) => s.learning_rate), "learning rate"), yaxis: { title: { text: plain(scoreName(now)) } } },
      ["runs", "learning rate", "score"], lines.flat().map((s) => [s.family, s.learning_rate, { text: interval(s.scores[now.rule]), value: s.scores[now.rule].mean }])),
  ];
}

const median = (values) => { const x = [...values].sort((a, b) => a - b), m = x.length >> 1; return x.length % 2 ? x[m] : (x[m - 1] + x[m]) / 2; };
function curves(now) {
  const own = shown(now, DATA.settings.filter(onTask(now))).filter((s) => doneRuns(s).length);
  const all = own.flatMap((s) => doneRuns(s).flatMap((run) => run.score));
  const range = [Math.min(...all) - 1, Math.max(...all) + 1];
  const plots = own.map((s) => {
    const look = style(s.method), runs = doneRuns(s), length = Math.min(...runs.map((run) => run.epoch.length));
    const epochs = runs[0].epoch.slice(0, length), middle = epochs.map((_, i) => median(runs.map((run) => run.score[i])));
    const traces = [
      ...runs.map((run) => ({ type: "scatter", mode: "lines", x: run.epoch, y: run.score, text: run.epoch.map((_, i) => plain(`${run.name}, epoch ${run.epoch[i]}: ${figure(run.score[i])}, loss ${run.loss[i]}`)), customdata: run.epoch.map(() => run.id), hoverinfo: "text", line: { color: look.colour, width: 1 }, opacity: 0.55, showlegend: false })),
      { type: "scatter", mode: "lines+markers", x: epochs, y: middle, line: { color: look.colour, width: 3 }, marker: { symbol: look.symbol, size: 6 }, hoverinfo: "skip", showlegend: false },
    ];
    return plot(s.label, traces, { xaxis: { title: { text: "epoch" }, rangemode: "tozero" }, yaxis: { range, title: { text: plain(DATA.metrics[now.task]) } } },
      ["epoch", "median", ...runs.map((run) => `seed ${run.seed}`)], epochs.map((epoch, i) => [epoch, middle[i], ...runs.map((run) => run.score[i])]), openRun);
  });
  return [element("p", {}, `${scoreName(now)}: thin, each seed; bold, the median. A click opens a run.`), element("div", { class: "plots" }, ...plots)];
}

function ranks(now) {
  const own = DATA.settings.filter(onTask(now)).filter((s) => s.scores[now.rule]);
  const rankless = (s) => s.family.replace(/, rank [^,]+/, "");
  const lines = unique(own.map((s) => ({ key: rankless(s) })), "key").map((key) => own.filter((s) => rankless(s) === key && s.rank).sort((a, b) => a.rank - b.rank));
  const byRank = lines.filter((line) => unique(line, "rank").length > 1);
  const layers = own.filter((s) => s.target_modules && s.chosen), kinds = unique(layers, "target_modules");
  const made = [];
  if (byRank.length) {
    const traces = byRank.map((line) => ({ type: "scatter", mode: "lines+markers", name: plain(rankless(line[0])), x: line.map((s) => s.rank), y: line.map((s) => s.scores[now.rule].mean), error_y: bars(line.map((s) => s.scores[now.rule])), text: line.map((s) => plain(`${s.label}: ${interval(s.scores[now.rule])}`)), hoverinfo: "text" }));
    made.push(plot(`${scoreName(now)} by rank`, traces, { xaxis: logAxis(byRank.flat().map((s) => s.rank), "rank"), yaxis: { title: { text: plain(scoreName(now)) } }, showlegend: true },
      ["runs", "rank", "score"], byRank.flat().map((s) => [s.label, s.rank, { text: interval(s.scores[now.rule]), value: s.scores[now.rule].mean }])));
  }
  if (kinds.length > 1) {
    const traces = unique(layers, "method").map((method) => { const part = layers.filter((s) => s.method === method); return { type: "scatter", mode: "markers", name: plain(DATA.methods[method].label), x: part.map((s) => plain(s.target_modules)), y: part.map((s) => s.scores[now.rule].mean), error_y: bars(part.map((s) => s.scores[now.rule])), text: part.map((s) => plain(`${s.label}: ${interval(s.scores[now.rule])}`)), hoverinfo: "text", marker: { color: style(method).colour, symbol: style(method).symbol, size: 9 } }; });
    made.push(plot(`${scoreName(now)} by the layers that are adapted`, traces, { xaxis: { type: "category" }, yaxis: { title: { text: plain(scoreName(now)) } } },
      ["runs", "layers", "score"], layers.map((s) => [s.label, s.target_modules, { text: interval(s.scores[now.rule]), value: s.scores[now.rule].mean }])));
  }
  return made.length ? [element("div", { class: "plots" }, ...made)] : [element("p", {}, "Neither rank nor layers vary in this experiment.")];
}

const MEMORY = [["weights", "#999999"], ["gradients", "#E69F00"], ["optimizer_state", "#0072B2"], ["activations", "#009E73"]];
function memory(now) {
  const own = shown(now, DATA.settings.filter(onTask(now))).filter((s) => s.cost[now.machine]?.weights).map((s) => ({ ...s, ...s.cost[now.machine] }));
  const total = (s) => MEMORY.reduce((sum, [key]) => sum + s[key], 0) / 2 ** 20;
  const traces = MEMORY.map(([key, ink]) => ({ type: "bar", name: key.replace("_", " "), x: own.map((s) => plain(s.label)), y: own.map((s) => s[key] / 2 ** 20), marker: { color: ink }, text: own.map((s) => `${key.replace("_", " ")}: ${figure(s[key] / 2 ** 20)} MiB, ${figure((100 * s[key]) / 2 ** 20 / total(s), 0)} %`), hoverinfo: "text", textposition: "none" }));
  return [
    element("p", {}, "Tensors that training holds, counted one by one: the medians over seeds. What the allocator and the libraries take is not in it."),
    legend(MEMORY.map(([key, ink]) => [key.replace("_", " "), ink, "square"])),
    plot(`Training memory, MiB, ${DATA.tasks[now.task]}`, traces, { barmode: "stack", showlegend: false, yaxis: { title: { text: "MiB" } } },
      ["runs", ...MEMORY.map(([key]) => key.replace("_", " ")), "total"], own.map((s) => [s.label, ...MEMORY.map(([key]) => +(s[key] / 2 ** 20).toFixed(1)), +total(s).toFixed(1)])),
  ];
}

function compare(now) {
  if (!now.a || !now.b) return [element("p", {}, "There are fewer than two settings here.")];
  const found = DATA.pairs.find((pair) => onTask(now)(pair) && ((pair.a === now.a && pair.b === now.b) || (pair.a === now.b && pair.b === now.a)));
  if (!found) return [element("p", {}, "These two share no seed.")];
  const sign = found.a === now.a ? 1 : -1, seeds = Object.keys(found.each), each = seeds.map((seed) => sign * found.each[seed]);
  const [low, high] = found.low === null ? [null, null] : sign > 0 ? [found.low, found.high] : [-found.high, -found.low];
  const mean = sign * found.mean, p = (x) => (x === null ? "" : x < 0.001 ? "below 0.001" : figure(x, 3));
  const words = low === null ? `no interval from ${seeds.length} seeds` : `95 % t interval ${figure(low)} to ${figure(high)}`;
  return [
    element("p", {}, `${now.a} less ${now.b} on ${DATA.tasks[now.task]}: ${mean > 0 ? "+" : ""}${figure(mean)} (${words}, n = ${seeds.length}), at the ${heldOut(now) ? "epochs that held-out data choose" : "best epochs on the validation set, which flatters"}.`),
    element("p", {}, found.p === null ? "No test from so few seeds." : `Paired t test: p ${p(found.p)}; corrected by Holm over the experiment's ${found.of} pairs: ${p(found.corrected)}.`),
    plot("Difference of each seed", [
      { type: "scatter", mode: "markers", x: seeds.map((seed) => `seed ${seed}`), y: each, marker: { size: 10, color: colour("--accent") }, hoverinfo: "x+y", name: "a seed" },
      { type: "scatter", mode: "markers", x: ["mean"], y: [mean], error_y: bars([{ mean, low, high }]), marker: { size: 12, symbol: "diamond", color: colour("--text") }, hoverinfo: "y", name: "mean, 95 % t interval" },
    ], { yaxis: { title: { text: "points" }, ...(each.some((x) => x) ? { rangemode: "tozero" } : { range: [-1, 1] }), zeroline: true, zerolinewidth: 2, zerolinecolor: colour("--quiet") }, showlegend: false }, ["seed", "difference"], seeds.map((seed, i) => [seed, +each[i].toFixed(2)])),
  ];
}

function claims() {
  const counts = new Map();
  for (const claim of DATA.claims) counts.set(claim.verdict, (counts.get(claim.verdict) ?? 0) + 1);
  const rows = DATA.claims.map((claim) => [
    claim.claim, claim.source, claim.rule,
    claim.experiment && unique(DATA.settings, "experiment").includes(claim.experiment) ? { text: claim.tested, action: () => go({ view: "overview", experiment: claim.experiment, model: "" }) } : claim.tested,
    claim.backbone, { text: claim.verdict, kind: claim.verdict }, claim.figures,
  ]);
  return [
    element("p", {}, [...counts].map(([verdict, count]) => `${verdict}: ${count}`).join(", ") + "."),
    element("p", {}, "What the papers claim, the rule by which a claim holds, and the verdict of these records. Undecided: the interval reaches both sides of the margin. A verdict speaks for the backbone and the budget that were run."),
    table("claims", ["claim", "source", "it holds if", "tested by", "backbone", "verdict", "figures"], rows),
  ];
}

function tables(now) {
  const chosen = DATA.tables.find((t) => t.title === now.table);
  if (!chosen) return [element("p", {}, "There are none.")];
  return [element("p", {}, "The published numbers, and ours beside them where there are runs."), table(chosen.title, chosen.columns, chosen.rows)];
}

function showRun(now) {
  const run = RUNS.get(now.run);
  if (!run) return [element("p", {}, "A click on a score in the overview opens its runs."), runsTable(DATA.runs.filter(inStudy(now)))];
  const siblings = (now.of ? now.of.split(" ") : [run.id]).filter((id) => RUNS.has(id)).map((id) => RUNS.get(id));
  const pairsOf = [
    ["record", run.name], ["status", run.reason ? `${run.status}: ${run.reason}` : run.status], ["experiment", run.experiment], ["setting", `${run.label} on ${DATA.tasks[run.task]}`], ["seed", run.seed],
    ["score", run.chosen ? `${figure(run.chosen.score)} at epoch ${run.chosen.epoch}, the best on held-out data; ${figure(run.best)} at the best epoch` : `${figure(run.best)} at the best epoch`],
    ["trained", `${figure(run.parameters, 0)} parameters without the head`], ["speed", run.samples_per_second ? `${figure(run.samples_per_second, 0)} samples/s` : "not measured"], ["peak memory of the process", run.peak_bytes ? `${figure(run.peak_bytes / 1e9, 2)} GB` : ""],
    ["machine", run.hardware], ["started", run.started], ["commit", run.commit ? run.commit + (run.dirty ? ", with changes that were not committed" : "") : "unknown"], ["data", run.data], ["versions", Object.entries(run.versions).filter(([, v]) => v).map(([k, v]) => `${k} ${v}`).join(", ")],
  ];
  const history = plot("History", [
    { type: "scatter", mode: "lines+markers", x: run.epoch, y: run.score, name: "validation", line: { color: colour("--accent") } },
    ...(run.held.length ? [{ type: "scatter", mode: "lines+markers", x: run.epoch, y: run.held, name: "held out", line: { dash: "dash", color: colour("--quiet") } }] : []),
    { type: "scatter", mode: "lines", x: run.epoch, y: run.loss, name: "training loss (right)", yaxis: "y2", line: { dash: "dot", color: colour("--warm") } },
  ], { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: plain(`${DATA.metrics[run.task]}, x 100`) } }, showlegend: true, yaxis2: { title: { text: "training loss" }, tickformat: ".2~f", overlaying: "y", side: "right", showgrid: false, rangemode: "tozero", automargin: true } },
    ["epoch", "validation", "held out", "training loss"], run.epoch.map((epoch, i) => [epoch, run.score[i], run.held[i] ?? null, run.loss[i]]));
  return [
    siblings.length > 1 ? runsTable(siblings, run) : null,
    element("h2", {}, run.name),
    element("dl", {}, ...pairsOf.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value ?? ""))])),
    element("h2", {}, "The command that repeats it"),
    element("pre", {}, run.commit ? `git checkout ${run.commit}\n${run.command}` : run.command),
    run.command.includes("data.path=DIR") ? element("p", { class: "quiet" }, "DIR is your folder of the task's files, in any layout that docs/settings.md names.") : null,
    history,
    element("h2", {}, "Settings other than the defaults"),
    table("settings", ["setting", "default", "here"], run.settings.map((line) => [...line])),
    element("h2", {}, "Predictions"),
    run.confusion ? table("validation examples: rows are labels, columns predictions", ["label", ...run.confusion.labels.map((l) => `predicted ${l}`)], run.confusion.counts.map((line, i) => [run.confusion.labels[i], ...line]))
      : element("p", {}, "Only the run's own folder has predictions, and only a task with classes a table of them: make_page.py with that folder shows it."),
  ];
}
function runsTable(runs, now) {
  const number = (x) => ({ text: figure(x), value: x ?? null, kind: "number" });
  const chosen = runs.some((run) => run.chosen); // else nothing was held out
  return table("runs: a click opens one", ["run", "seed", "status", ...(chosen ? ["score"] : []), "best epoch's"], runs.map((run) => [
    { text: run.name + (run === now ? " (shown)" : ""), action: () => go({ view: "run", run: run.id }) }, run.seed, run.status,
    ...(chosen ? [number(run.chosen?.score)] : []), number(run.best),
  ]));
}

// Controls

const CONTROLS = {
  experiment: ["experiment", () => unique(DATA.settings, "experiment").map((name) => [name, name])],
  model: ["backbone", (now) => unique(DATA.settings.filter((s) => s.experiment === now.experiment), "model").map((name) => [name, name])],
  task: ["task", (now) => unique(DATA.settings.filter(inStudy(now)), "task").map((name) => [name, DATA.tasks[name]])],
  rule: ["epoch", rulesOf],
  rates: ["learning rates", ratesOf],
  machine: ["machine, of speed and memory", (now) => machines(now).map((name) => [name, name])],
  a: ["this", (now) => comparable(now).map((label) => [label, label])],
  b: ["less that", (now) => comparable(now).filter((label) => label !== now.a).map((label) => [label, label])],
  table: ["table", () => DATA.tables.map((t) => [t.title, t.title])],
};
function control(key, now) {
  const [name, options] = CONTROLS[key];
  const select = element("select", { name: key, onchange: (event) => go({ [key]: event.target.value, run: "", of: "" }) });
  for (const [value, label] of options(now)) select.append(element("option", { value, selected: value === now[key] }, label));
  return element("label", {}, name, select);
}

function render() {
  const now = state(), [title, view, controls] = VIEWS[now.view];
  document.title = `${title}: PEFT on GLUE`;
  document.getElementById("views").replaceChildren(...Object.entries(VIEWS).map(([key, [name]]) => element("a", { href: "#" + new URLSearchParams({ ...now, view: key }), "aria-current": key === now.view ? "page" : null }, name)));
  document.getElementById("controls").replaceChildren(...controls.map((key) => control(key, now)));
  for (const old of main.querySelectorAll(".js-plotly-plot")) Plotly.purge(old);
  main.replaceChildren(...view(now).filter(Boolean));
}
document.getElementById("what").textContent = `${DATA.runs.length} runs of ${Object.keys(DATA.methods).length} methods in all experiments. Every number leads to its runs, every run to the command that repeats it.`;
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", render);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
render();
requestAnimationFrame(() => setTimeout(plotly));
