"use strict";
// Draws the report from the JSON in #data with plotly.js. Colours are Okabe and Ito's, which the colour-blind can tell
// apart; after six of them lines differ in their dashes, too.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const ALL_NAMED = 12, BEST_NAMED = 8; // up to 12 lines all have a colour; of more the best 8, and the others are grey
  const MAX_SCORES = 40, MAX_CELLS_WITH_TEXT = 200, MAX_CHOICES = 20, MAX_AXES = 10;
  const runs = data.runs;
  const byId = (id) => document.getElementById(id);
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  // --- values -------------------------------------------------------------------------------------------------------

  const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

  function unpacked(packed, kinds) {
    const found = { ...packed, starts: [] };
    let start = 0;
    for (const length of packed.lengths) { found.starts.push(start); start += length; }
    for (const [name, Kind] of Object.entries(kinds)) found[name] = unpack(packed[name], Kind);
    return found;
  }

  const curves = {}, means = {}, curveOf = {};
  for (const [metric, packed] of Object.entries(data.curves)) {
    curves[metric] = unpacked(packed, { steps: Int32Array, seconds: Float32Array, values: Float32Array });
    curveOf[metric] = new Map(packed.runs.map((run, index) => [run, index]));
  }
  for (const [metric, packed] of Object.entries(data.means)) {
    const kinds = { steps: Int32Array, seconds: Float32Array, mean: Float32Array, low: Float32Array, high: Float32Array };
    means[metric] = unpacked(packed, kinds);
  }

  const asNumber = (value) => (typeof value === "number" ? value : value === undefined || value === null ? NaN : Number(value === "inf" ? Infinity : value === "-inf" ? -Infinity : value));

  function atStep(run, metric, step) {
    const index = curveOf[metric] ? curveOf[metric].get(run) : undefined;
    if (index === undefined) return null;
    const { starts, lengths, steps, values } = curves[metric];
    for (let at = starts[index]; at < starts[index] + lengths[index]; at++) if (steps[at] === step) return values[at];
    return null;
  }

  // A run's metric: its last value, its best, or the one at a step; null: it has none.
  function valueOf(run, metric, mode = "last") {
    const figure = runs[run].figures[metric];
    if (figure === undefined) return null;
    if (mode === "best" && figure[1] !== null) return figure[1];
    if (typeof mode === "number" && curves[metric]) return atStep(run, metric, mode);
    return asNumber(figure[0]);
  }

  const finite = (value) => value !== null && Number.isFinite(value);
  const lowIsBetter = (metric) => data.metrics[metric] && data.metrics[metric].better === "low";

  function compareBy(metric, mode) {
    const sign = lowIsBetter(metric) ? 1 : -1;
    return (a, b) => {
      const [x, y] = [valueOf(a, metric, mode), valueOf(b, metric, mode)];
      if (!finite(x) || !finite(y)) return finite(y) - finite(x);
      return sign * (x - y);
    };
  }

  function show(value) {
    if (value === null || value === undefined) return "";
    if (!Number.isFinite(value)) return String(value);
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3);
    return value.toLocaleString("en", { maximumSignificantDigits: size >= 1e4 ? 6 : 5 });
  }

  function showSeconds(seconds) {
    if (seconds === null) return "";
    if (seconds < 90) return `${seconds.toFixed(1)} s`;
    return seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(2)} h`;
  }

  const place = new Map(data.keys.map((key, index) => [key, index]));
  const keyValue = (run, key) => runs[run].values[place.get(key)];
  const isNumeric = (text) => text !== "" && Number.isFinite(Number(text));

  function valuesOf(key, chosen) {
    const found = [...new Set(chosen.map((run) => keyValue(run, key)))];
    const numeric = found.filter(isNumeric).sort((a, b) => a - b);
    return [...numeric, ...found.filter((value) => !isNumeric(value)).sort()];
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // Half the width of Student's 95% interval of the mean; null: of one value.
  function halfWidth(values) {
    if (values.length < 2) return null;
    const middle = mean(values);
    const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
    return (data.t[values.length - 2] || 1.96) * Math.sqrt(variance / values.length);
  }

  // --- what is visible ----------------------------------------------------------------------------------------------

  const every = runs.map((_, run) => run);
  const state = { visible: every, filter: "", x: "step", each: !data.hasSeeds, log: false, mode: "last", sort: null, down: false };
  const counted = (chosen) => `${chosen.length.toLocaleString("en")} of ${plural(runs.length, "run")}`;
  const filtered = () => (state.filter ? `, those of the table's filter (${state.filter})` : "");

  function without(metric, chosen) {
    const lacking = chosen.filter((run) => runs[run].figures[metric] === undefined).length;
    return lacking ? `; ${lacking.toLocaleString("en")} have no ${metric}` : "";
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;

  function theme() {
    const isDark = dark.matches && !printing;
    return isDark
      ? { ink: "#e8ebee", grid: "#343b42", grey: "#6d7680", scale: [[0, "#56B4E9"], [0.5, "#c8c8c8"], [1, "#E69F00"]] } // on dark, Cividis begins too dark
      : { ink: "#1b1f24", grid: "#dfe3e7", grey: "#a9b0b7", scale: "Cividis" };
  }

  function layout(more) {
    const colours = theme();
    const axis = { gridcolor: colours.grid, linecolor: colours.grid, zerolinecolor: colours.grid, automargin: true };
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colours.ink, size: 12 },
      margin: { l: 60, r: 16, t: 28, b: 44 }, hoverlabel: { align: "left", namelength: -1 }, hovermode: "closest",
      showlegend: false, modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.grey, activecolor: colours.ink },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }

  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const figures = []; // { element, says, draw, near, stale }

  function figure(element, says, draw) {
    figures.push({ element, says, draw, near: false, stale: true });
  }

  function refresh(all = false) {
    for (const one of figures) {
      if (!one.stale || !(one.near || all)) continue;
      one.stale = false;
      const { traces, layout: shape, says, config } = one.draw();
      if (one.says) one.says.textContent = says;
      one.element.hidden = traces.length === 0;
      if (traces.length) window.Plotly.react(one.element, traces, shape, { ...CONFIG, ...config });
    }
    document.documentElement.dataset.drawn = figures.filter((one) => !one.stale).length;
  }

  function changed() {
    for (const one of figures) one.stale = true;
    chooseLooks();
    refresh();
    whenIdle();
  }

  const whenIdle = () => (window.requestIdleCallback || setTimeout)(() => {
    const left = figures.find((one) => one.stale);
    if (!left) return;
    left.near = true;
    refresh();
    whenIdle();
  });

  // --- curves -------------------------------------------------------------------------------------------------------

  const X = {
    step: { title: "optimizer step", of: (run, step) => step },
    tokens: { title: "tokens (all positions)", of: (run, step) => step * runs[run].tokensPerStep, has: (run) => runs[run].tokensPerStep !== null },
    time: { title: "seconds since the run's start", of: (run, step, seconds) => seconds },
    flops: { title: "FLOPs (6 per parameter and token)", of: (run, step) => step * runs[run].flopsPerStep, has: (run) => runs[run].flopsPerStep !== null },
  };

  // What is drawn as one line: a group's mean, or a run's curve.
  function linesOf(metric) {
    const visible = new Set(state.visible), lines = [], inMeans = new Set();
    if (!state.each && means[metric]) {
      means[metric].runs.forEach((members, index) => {
        members.forEach((run) => inMeans.add(run));
        const first = members.find((run) => visible.has(run));
        if (first !== undefined) lines.push({ run: first, members, of: means[metric], index, y: means[metric].mean });
      });
    }
    (curves[metric] ? curves[metric].runs : []).forEach((run, index) => {
      if (visible.has(run) && !inMeans.has(run)) lines.push({ run, of: curves[metric], index, y: curves[metric].values });
    });
    const has = X[state.x].has;
    return has ? lines.filter((line) => has(line.run)) : lines;
  }

  const nameOf = (line) => (line.members ? `${data.groups[runs[line.run].group] || "all"} (mean of ${line.members.length} seeds)` : runs[line.run].label);

  // Rank by the ranking metric: of a mean, by its members' mean.
  function ranked(lines) {
    const sign = lowIsBetter(data.ranking) ? 1 : -1;
    const score = (line) => {
      const values = (line.members || [line.run]).map((run) => valueOf(run, data.ranking)).filter(finite);
      return values.length ? sign * mean(values) : Infinity;
    };
    return lines.map((line) => [score(line), line]).sort((a, b) => a[0] - b[0] || a[1].run - b[1].run).map((pair) => pair[1]);
  }

  const keyOf = (line) => (line.members ? `group ${runs[line.run].group}` : `run ${line.run}`);
  let looks = new Map(); // of the named lines: the same in all figures

  // Which lines have a colour, and the legend that says so.
  function chooseLooks() {
    const found = new Map();
    for (const metric of Object.keys(curves)) for (const line of linesOf(metric)) if (!found.has(keyOf(line))) found.set(keyOf(line), line);
    const lines = ranked([...found.values()]);
    const named = lines.length <= ALL_NAMED ? lines : lines.slice(0, BEST_NAMED);
    looks = new Map(named.map((line, index) => [keyOf(line), { color: COLOURS[index % COLOURS.length], dash: DASHES[Math.floor(index / COLOURS.length) % DASHES.length], width: 2 }]));
    const strokes = { solid: "", dash: "9 5", dot: "2 4", dashdot: "9 4 2 4" };
    const sign = ({ color, dash }) => `<svg width="34" height="10" aria-hidden="true"><line x1="0" x2="34" y1="5" y2="5" stroke="${color}" stroke-width="3" stroke-dasharray="${strokes[dash]}"/></svg>`;
    const texts = named.map((line) => `<span>${sign(looks.get(keyOf(line)))} ${escape(nameOf(line))}</span>`);
    if (lines.length > named.length) texts.push(`<span>${sign({ color: theme().grey, dash: "solid" })} ${plural(lines.length - named.length, "other")}</span>`);
    byId("legend").innerHTML = texts.join("");
  }

  function points(line, array) {
    const { starts, lengths, steps, seconds } = line.of;
    const x = [], y = [], of = X[state.x].of;
    for (let at = starts[line.index]; at < starts[line.index] + lengths[line.index]; at++) {
      x.push(of(line.run, steps[at], seconds[at]));
      y.push(Number.isFinite(array[at]) ? array[at] : null);
    }
    return { x, y };
  }

  function band(line, colour) {
    const low = points(line, line.of.low), high = points(line, line.of.high);
    const x = [...low.x, ...high.x.reverse()], y = [...low.y, ...high.y.reverse()];
    const fill = `${colour}33`;
    return { x, y, fill: "toself", fillcolor: fill, line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false };
  }

  function greyTrace(lines) {
    const x = [], y = [], text = [];
    for (const line of lines) {
      const found = points(line, line.y), name = escape(nameOf(line));
      found.x.forEach((value, at) => { x.push(value); y.push(found.y[at]); text.push(name); });
      x.push(null); y.push(null); text.push("");
    }
    return {
      x, y, text, mode: "lines", name: plural(lines.length, "other"), line: { width: 0.8, color: theme().grey }, opacity: 0.55,
      hovertemplate: "%{text}<br>%{x:,}: %{y:.5g}<extra></extra>",
    };
  }

  function drawCurves(metric) {
    const lines = ranked(linesOf(metric));
    const named = lines.filter((line) => looks.has(keyOf(line))), others = lines.filter((line) => !looks.has(keyOf(line)));
    const traces = others.length ? [greyTrace(others)] : [];
    for (const line of named) if (line.members) traces.push(band(line, looks.get(keyOf(line)).color));
    named.forEach((line) => {
      const short = line.of.lengths[line.index] === 1;
      traces.push({
        ...points(line, line.y), name: escape(nameOf(line)), line: looks.get(keyOf(line)), mode: short ? "markers" : "lines",
        hovertemplate: "%{x:,}: %{y:.5g}",
      });
    });
    const axes = { xaxis: { title: { text: X[state.x].title }, rangemode: "tozero" }, yaxis: { title: { text: metric }, type: state.log ? "log" : "linear" } };
    return { traces, layout: layout(axes), says: curvesSay(metric, lines, others) };
  }

  function curvesSay(metric, lines, others) {
    const drawn = lines.flatMap((line) => line.members || [line.run]);
    const all = curves[metric].runs.filter((run) => state.visible.includes(run));
    const says = [`${counted(drawn)}${filtered()}${without(metric, state.visible)}.`];
    if (all.length > drawn.length && X[state.x].has) says.push(`${plural(all.length - drawn.length, "run")} left out: they don't record what ${state.x} needs.`);
    if (lines.some((line) => line.members)) says.push("Lines are means over seeds, at the steps that all have, bands Student's 95% intervals of the mean; runs that failed are in no mean.");
    if (others.length) says.push(`The best ${lines.length - others.length} by ${data.ranking} are named, ${plural(others.length, "other")} grey.`);
    const thinned = lines.map(({ of, index }) => [of.lengths[index], of.points[index]]).filter(([length, before]) => before > length);
    if (thinned.length) {
      const most = thinned.reduce((a, b) => (b[1] > a[1] ? b : a));
      says.push(`At most ${most[0].toLocaleString("en")} of up to ${most[1].toLocaleString("en")} points of a line are drawn: the lowest and the highest of each stretch.`);
    }
    if (data.sampled) says.push("The MLflow server had thinned the points out evenly before.");
    const broken = curves[metric].runs.filter((run, index) => {
      const { starts, lengths, values } = curves[metric];
      return values.subarray(starts[index], starts[index] + lengths[index]).some((value) => !Number.isFinite(value));
    }).length;
    if (broken) says.push(`${plural(broken, "curve")} with gaps where the value was NaN or infinite.`);
    return says.join(" ");
  }

  // --- swept values -------------------------------------------------------------------------------------------------

  const swept = data.swept, choice = { metric: null, x: null, y: "" };

  function cellsOf(keys) {
    const cells = new Map();
    for (const run of state.visible) {
      const value = valueOf(run, choice.metric);
      if (!finite(value)) continue;
      const at = keys.map((key) => keyValue(run, key)).join("\n");
      if (!cells.has(at)) cells.set(at, { values: [], groups: new Set() });
      cells.get(at).values.push(value);
      cells.get(at).groups.add(runs[run].group);
    }
    return cells;
  }

  function sweptSays(cells, keys) {
    const used = [...cells.values()].flatMap((cell) => cell.values).length;
    const others = swept.filter((key) => !keys.includes(key));
    const says = [`${choice.metric} of ${used.toLocaleString("en")} of ${plural(runs.length, "run")}${filtered()}${without(choice.metric, state.visible)}; the mean where several share a value.`];
    const mixed = [...cells.values()].some((cell) => cell.groups.size > 1);
    if (mixed) says.push(`They also differ in ${others.join(", ")}, so no interval is drawn.`);
    else if ([...cells.values()].some((cell) => cell.values.length > 1)) says.push("Seeds: Student's 95% interval of the mean.");
    return says.join(" ");
  }

  function drawSwept() {
    const keys = choice.y ? [choice.x, choice.y] : [choice.x];
    const cells = cellsOf(keys), says = sweptSays(cells, keys);
    return { ...(choice.y ? heatMap(cells) : bars(cells)), says };
  }

  function bars(cells) {
    const x = valuesOf(choice.x, state.visible).filter((value) => cells.has(value));
    const found = x.map((value) => cells.get(value));
    const mixed = found.some((cell) => cell.groups.size > 1);
    const half = found.map((cell) => (mixed ? null : halfWidth(cell.values)));
    const y = found.map((cell) => mean(cell.values));
    const shown = x.map((value) => (value === "" ? "(none)" : value));
    const trace = {
      type: "bar", x: shown.map(String), y, marker: { color: COLOURS[0] },
      error_y: { type: "data", array: half.map((value) => value || 0), visible: half.some((value) => value !== null), color: theme().ink },
      text: found.map((cell, index) => `${show(y[index])}${cell.values.length > 1 ? `<br>n=${cell.values.length}` : ""}`),
      textposition: "inside", insidetextanchor: "middle", insidetextfont: { color: "#fff" }, hovertemplate: "%{x}: %{y:.5g}<extra></extra>",
    };
    const axes = { xaxis: { title: { text: choice.x }, type: "category" }, yaxis: { title: { text: choice.metric } } };
    return { traces: x.length ? [trace] : [], layout: layout({ ...axes, bargap: 0.35 }) };
  }

  function heatMap(cells) {
    const xs = valuesOf(choice.x, state.visible), ys = valuesOf(choice.y, state.visible);
    const cell = (x, y) => cells.get(`${x}\n${y}`);
    const z = ys.map((y) => xs.map((x) => (cell(x, y) ? mean(cell(x, y).values) : null)));
    const n = ys.map((y) => xs.map((x) => (cell(x, y) ? cell(x, y).values.length : 0)));
    const trace = {
      type: "heatmap", x: xs.map(String), y: ys.map(String), z, text: z.map((row) => row.map(show)), customdata: n, colorscale: "Cividis", xgap: 1, ygap: 1,
      texttemplate: xs.length * ys.length <= MAX_CELLS_WITH_TEXT ? "%{text}" : "", colorbar: { title: { text: choice.metric, side: "right" } },
      hovertemplate: `${escape(choice.x)}=%{x}<br>${escape(choice.y)}=%{y}<br>%{text}, n=%{customdata}<extra></extra>`,
    };
    const axes = { xaxis: { title: { text: choice.x }, type: "category" }, yaxis: { title: { text: choice.y }, type: "category" } };
    return { traces: cells.size ? [trace] : [], layout: layout(axes) };
  }

  // --- parallel coordinates -----------------------------------------------------------------------------------------

  function parallelAxes() {
    const keys = swept.filter((key) => valuesOf(key, every).length > 1).slice(0, MAX_AXES - 2);
    const metrics = Object.keys(data.metrics).filter((metric) => metric !== "train/grad_norm").slice(0, MAX_AXES - keys.length);
    return { keys, metrics };
  }

  function keyAxis(key, chosen) {
    const values = valuesOf(key, chosen);
    if (values.length > MAX_CHOICES && values.every(isNumeric)) return { label: key, values: chosen.map((run) => Number(keyValue(run, key))) };
    const index = new Map(values.map((value, at) => [value, at]));
    const ticks = { tickvals: values.map((_, at) => at), ticktext: values.map((value) => (value === "" ? "(none)" : value)) };
    const range = values.length === 1 ? { range: [-1, 1] } : {};
    return { label: key, values: chosen.map((run) => index.get(keyValue(run, key))), ...ticks, ...range };
  }

  function drawParallel() {
    const { keys, metrics } = parallelAxes();
    const used = metrics.filter((metric) => state.visible.some((run) => finite(valueOf(run, metric))));
    const chosen = state.visible.filter((run) => used.every((metric) => finite(valueOf(run, metric))));
    const axes = [...keys.map((key) => keyAxis(key, chosen)), ...used.map((metric) => ({ label: metric, values: chosen.map((run) => valueOf(run, metric)), tickformat: ",.4~r" }))];
    const says = `${counted(chosen)}${filtered()}: those that have all of these metrics. Colour: ${data.ranking}. Drag along an axis to choose lines.`;
    if (!chosen.length || axes.length < 2) return { traces: [], layout: layout({}), says: `${says} Nothing to draw.` };
    // Room for a label of 12 px letters, upright above its axis, on both sides
    const widest = Math.max(...axes.flatMap((axis) => [axis.label.length, ...(axis.ticktext || []).map((text) => text.length)]));
    const room = Math.max(90, widest * 7.2);
    byId("parallel").style.minWidth = `${Math.ceil(room * axes.length + 240)}px`;
    const colours = theme();
    const trace = {
      type: "parcoords", dimensions: axes, labelside: "top",
      line: { color: chosen.map((run) => valueOf(run, data.ranking)), colorscale: colours.scale, showscale: true, colorbar: { title: { text: data.ranking, side: "right" }, xpad: Math.ceil(room / 2), tickformat: ",.4~r" } },
      labelfont: { size: 12, color: colours.ink }, tickfont: { size: 11, color: colours.ink }, rangefont: { size: 10, color: colours.ink },
      unselected: { line: { opacity: 0.15 } },
    };
    return { traces: [trace], layout: layout({ margin: { l: room / 2 + 20, r: room / 2 + 110, t: 50, b: 30 } }), says, config: { displayModeBar: false } };
  }

  // --- scores -------------------------------------------------------------------------------------------------------

  function drawScores(part) {
    const visible = new Set(state.visible);
    const found = part.scores.filter((one) => visible.has(one.run)).sort((a, b) => b.score - a.score);
    const shown = found.slice(0, MAX_SCORES).reverse();
    const trace = {
      x: shown.map((one) => one.score), y: shown.map((one) => escape(runs[one.run].label)), mode: "markers", marker: { color: COLOURS[0], size: 9 },
      error_x: {
        type: "data", symmetric: false, color: theme().ink,
        array: shown.map((one) => (one.high === null ? 0 : one.high - one.score)), arrayminus: shown.map((one) => (one.low === null ? 0 : one.score - one.low)),
      },
      hovertemplate: "%{y}<br>%{x:.4f}<extra></extra>",
    };
    const says = [`${counted(found)}${filtered()}, with the intervals that were recorded.`];
    if (found.length > shown.length) says.push(`The best ${shown.length} are drawn.`);
    const axes = { xaxis: { title: { text: "evaluate/pass_at_1" }, range: [0, 1] }, yaxis: { type: "category" } };
    return { traces: shown.length ? [trace] : [], layout: layout(axes), says: says.join(" ") };
  }

  // --- the table of runs --------------------------------------------------------------------------------------------

  const metricColumns = Object.keys(data.metrics);
  const metricColumn = (metric) => ({
    head: metric, metric, tip: data.metrics[metric].meaning,
    number: (run) => valueOf(run, metric, state.mode), text: (run) => show(valueOf(run, metric, state.mode)),
  });
  const columns = [
    { head: "run", tip: "the id's first characters; the whole id and the name show when you point at it", text: (run) => runs[run].id.slice(0, 8), id: true },
    ...(data.named ? [{ head: "name", text: (run) => runs[run].name, longest: true }] : []),
    { head: "status", text: (run) => runs[run].status },
    metricColumn(data.ranking),
    ...data.keys.map((key) => ({ head: key, text: (run) => keyValue(run, key), longest: true })),
    ...metricColumns.filter((metric) => metric !== data.ranking).map(metricColumn),
    { head: "time", tip: "from start to end", number: (run) => runs[run].seconds, text: (run) => showSeconds(runs[run].seconds) },
  ];

  const unranked = (metric) => metric.startsWith("evaluate/pass_at") && data.scores.length > 1;

  function matches(column, run, wanted) {
    const found = /^\s*(<=|>=|<|>|=)\s*(\S+)\s*$/.exec(wanted);
    if (!found) return column.text(run).toLowerCase().includes(wanted.trim().toLowerCase());
    const value = column.number ? column.number(run) : Number(column.text(run)), limit = Number(found[2]);
    if (found[1] === "=" && !Number.isFinite(limit)) return column.text(run) === found[2];
    if (!finite(value) || column.text(run) === "") return false;
    return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[found[1]];
  }

  function sorted(chosen) {
    if (state.sort === null) return data.metrics[data.ranking] ? [...chosen].sort(compareBy(data.ranking, state.mode)) : chosen;
    const column = columns[state.sort], sign = state.down ? -1 : 1;
    const key = (run) => (column.number ? column.number(run) : isNumeric(column.text(run)) ? Number(column.text(run)) : column.text(run));
    return [...chosen].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const [noX, noY] = [x === null || x === "" || Number.isNaN(x), y === null || y === "" || Number.isNaN(y)];
      if (noX || noY) return noX - noY;
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
    });
  }

  function bestOf(metric) {
    if (!data.metrics[metric].better || unranked(metric)) return null;
    const [first] = [...every].sort(compareBy(metric, state.mode));
    return valueOf(first, metric, state.mode);
  }

  function fillTable() {
    const filters = [...byId("filters").querySelectorAll("input")].map((input) => input.value.trim());
    state.visible = every.filter((run) => filters.every((wanted, index) => !wanted || matches(columns[index], run, wanted)));
    state.filter = filters.map((wanted, index) => wanted && `${columns[index].head} ${wanted}`).filter(Boolean).join(", ");
    const bests = new Map(metricColumns.map((metric) => [metric, bestOf(metric)]));
    const star = unranked(data.ranking) ? null : bests.get(data.ranking);
    const row = (run) => {
      const cells = columns.map((column) => {
        const isTop = column.metric && bests.get(column.metric) !== null && column.number(run) === bests.get(column.metric);
        const kind = [column.number ? "number" : "", column.longest ? "longest" : "", column.id ? "id" : "", isTop ? "top" : ""].join(" ").trim();
        const tip = column.head === "run" ? ` title="${escape(`${runs[run].label}\n${runs[run].name}\n${runs[run].id}`)}"` : column.head === "status" && runs[run].reason ? ` title="${escape(runs[run].reason)}"` : "";
        const isBest = column.head === "run" && star !== null && valueOf(run, data.ranking, state.mode) === star;
        return `<td class="${kind}"${tip}>${isBest ? "★ " : ""}${escape(column.text(run))}</td>`;
      });
      return `<tr class="${star !== null && valueOf(run, data.ranking, state.mode) === star ? "first" : ""}" data-run="${run}">${cells.join("")}</tr>`;
    };
    byId("rows").innerHTML = sorted(state.visible).map(row).join("");
    const what = { last: "last values (speeds: the mean over a run's steps but the first; memory: the highest)", best: "best values" }[state.mode] || `values at step ${state.mode}`;
    byId("table-says").textContent = `${counted(state.visible)}${state.filter ? ` (${state.filter})` : ""}; ${what}. ★ and green: the best. The filter goes for the figures, too.`;
    byId("heads").querySelectorAll("th").forEach((head, index) => head.setAttribute("aria-sort", state.sort === index ? (state.down ? "descending" : "ascending") : "none"));
  }

  function makeTable() {
    byId("heads").innerHTML = columns.map((column) => `<th title="${escape(column.tip || "")}"><button type="button">${escape(column.head)}</button></th>`).join("");
    byId("filters").innerHTML = columns.map((column) => `<th><input aria-label="filter ${escape(column.head)}" placeholder="${column.number ? "&lt; &gt; =" : "filter"}"></th>`).join("");
    byId("heads").querySelectorAll("button").forEach((button, index) => button.addEventListener("click", () => {
      state.down = state.sort === index ? !state.down : false;
      state.sort = index;
      fillTable();
    }));
    let waiting = 0;
    byId("filters").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { fillTable(); changed(); }, 200);
    });
    fillTable();
  }

  function stepsToChoose() {
    const source = curves["eval/loss"] || curves["train/loss"];
    if (!source) return [];
    const counts = new Map();
    source.steps.forEach((step) => counts.set(step, (counts.get(step) || 0) + 1));
    const common = [...counts].filter(([, count]) => count >= Math.max(1, source.runs.length / 2)).map(([step]) => step).sort((a, b) => a - b);
    const every = Math.ceil(common.length / 40);
    return common.filter((_, index) => index % every === 0);
  }

  // --- two configurations, data, answers ----------------------------------------------------------------------------

  function fillDifference() {
    const [a, b] = [Number(byId("first").value), Number(byId("second").value)];
    const rows = data.keys.filter((key) => keyValue(a, key) !== keyValue(b, key)).map((key) => [key, keyValue(a, key), keyValue(b, key)]);
    const figures = metricColumns.map((metric) => [metric, show(valueOf(a, metric)), show(valueOf(b, metric))]).filter((row) => row[1] || row[2]);
    const line = ([name, x, y]) => `<tr><th>${escape(name)}</th><td class="longest">${escape(x)}</td><td class="longest">${escape(y)}</td></tr>`;
    const none = `<tr><td colspan="3">no key differs</td></tr>`;
    byId("difference").innerHTML = `<thead><tr><th>key</th><th>${escape(runs[a].label)}</th><th>${escape(runs[b].label)}</th></tr></thead><tbody>${rows.length ? rows.map(line).join("") : none}<tr><th colspan="3">last values</th></tr>${figures.map(line).join("")}</tbody>`;
  }

  function makeDifference() {
    const options = runs.map((run, index) => `<option value="${index}">${escape(run.label)}</option>`).join("");
    for (const id of ["first", "second"]) {
      byId(id).innerHTML = options;
      byId(id).addEventListener("change", fillDifference);
    }
    const order = [...every].sort(compareBy(data.ranking, "last"));
    byId("first").value = order[0];
    byId("second").value = order[order.length > 1 ? 1 : 0];
    fillDifference();
    const common = Object.entries(data.common).map(([key, value]) => `<tr><th>${escape(key)}</th><td class="longest">${escape(value)}</td></tr>`);
    byId("common").innerHTML = `<tbody>${common.join("")}</tbody>`;
  }

  function makeData() {
    const names = [...new Set(data.data.flatMap((one) => Object.keys(one.figures)))];
    const cell = (value) => (typeof value === "number" ? show(value) : value !== null && typeof value === "object" ? JSON.stringify(value) : value === undefined ? "" : String(value));
    const differs = (name) => new Set(data.data.map((one) => cell(one.figures[name]))).size > 1;
    const heads = data.data.map((one) => `<th>${plural(one.runs.length, "run")}: ${escape(runs[one.runs[0]].label)}${one.runs.length > 1 ? ", …" : ""}</th>`);
    const rows = names.map((name) => `<tr><th>${escape(name)}</th>${data.data.map((one) => `<td class="longest${differs(name) ? " top" : ""}">${escape(cell(one.figures[name]))}</td>`).join("")}</tr>`);
    byId("data-table").innerHTML = `<thead><tr><th></th>${heads.join("")}</tr></thead><tbody>${rows.join("")}</tbody>`;
  }

  function makeAnswers() {
    const { runs: chosen, prompts, texts } = data.answers;
    const heads = chosen.map((run) => `<th>${escape(runs[run].label)}</th>`).join("");
    const rows = prompts.map((prompt, index) => `<tr><td class="text">${escape(prompt)}</td>${texts[index].map((text) => `<td class="text">${text === null ? "" : escape(text)}</td>`).join("")}</tr>`);
    byId("answers-table").innerHTML = `<thead><tr><th>prompt</th>${heads}</tr></thead><tbody>${rows.join("")}</tbody>`;
  }

  // --- putting it together ------------------------------------------------------------------------------------------

  function options(element, values, chosen) {
    element.innerHTML = values.map(([value, text]) => `<option value="${escape(value)}"${value === chosen ? " selected" : ""}>${escape(text)}</option>`).join("");
  }

  function makeCurves() {
    for (const metric of Object.keys(curves).sort((a, b) => (b === data.ranking) - (a === data.ranking))) {
      const part = document.createElement("div");
      part.innerHTML = `<h3>${escape(metric)}</h3><div class="plot" data-metric="${escape(metric)}"></div><p class="says"></p>`;
      byId("curves-plots").append(part);
      figure(part.querySelector(".plot"), part.querySelector(".says"), () => drawCurves(metric));
    }
    const usable = ["step", "tokens", "time", "flops"].filter((name) => !X[name].has || every.some(X[name].has));
    options(byId("x"), usable.map((name) => [name, X[name].title]), "step");
    byId("x").addEventListener("change", (event) => { state.x = event.target.value; changed(); });
    byId("each").checked = state.each;
    byId("each").closest("label").hidden = !data.hasSeeds;
    byId("each").addEventListener("change", (event) => { state.each = event.target.checked; changed(); });
    byId("log").addEventListener("change", (event) => { state.log = event.target.checked; changed(); });
  }

  function makeSwept() {
    const speeds = metricColumns.filter((metric) => metric.startsWith("perf/")), others = metricColumns.filter((metric) => !speeds.includes(metric));
    const metrics = [...speeds, ...others];
    const axes = swept.slice(0, 30).map((key) => [key, key]);
    [choice.metric, choice.x, choice.y] = [metrics[0], swept[0], swept.length > 1 ? swept[1] : ""];
    options(byId("swept-metric"), metrics.map((metric) => [metric, metric]), choice.metric);
    options(byId("swept-x"), axes, choice.x);
    options(byId("swept-y"), [["", "nothing: bars"], ...axes], choice.y);
    for (const [id, name] of [["swept-metric", "metric"], ["swept-x", "x"], ["swept-y", "y"]]) {
      byId(id).addEventListener("change", (event) => {
        choice[name] = event.target.value;
        if (choice.y === choice.x) { choice.y = ""; byId("swept-y").value = ""; }
        changed();
      });
    }
    figure(byId("swept-plot"), byId("swept-says"), drawSwept);
    figure(byId("parallel"), byId("parallel-says"), drawParallel);
  }

  function makeScores() {
    for (const part of data.scores) {
      const block = document.createElement("div");
      block.innerHTML = `<h3>protocol ${escape(part.protocol || "not recorded")}</h3><div class="plot"></div><p class="says"></p>`;
      byId("scores-plots").append(block);
      block.querySelector(".plot").style.height = `${120 + 22 * Math.min(part.scores.length, MAX_SCORES)}px`;
      figure(block.querySelector(".plot"), block.querySelector(".says"), () => drawScores(part));
    }
  }

  const sections = {
    curves: [Object.keys(curves).length > 0, makeCurves], swept: [swept.length > 0, makeSwept], scores: [data.scores.length > 0, makeScores],
    configurations: [runs.length > 1, makeDifference], "data-sets": [data.data.length > 0, makeData], answers: [data.answers !== null, makeAnswers],
  };
  options(byId("mode"), [["last", "last"], ["best", "best"], ...stepsToChoose().map((step) => [String(step), `at step ${step.toLocaleString("en")}`])], "last");
  byId("mode").addEventListener("change", (event) => {
    state.mode = ["last", "best"].includes(event.target.value) ? event.target.value : Number(event.target.value);
    fillTable();
  });
  makeTable();
  for (const [id, [present, make]] of Object.entries(sections)) {
    byId(id).hidden = !present;
    document.querySelector(`nav a[href="#${id}"]`).hidden = !present;
    if (present) make();
  }
  chooseLooks();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const found = figures.find((one) => one.element === entry.target);
      if (entry.isIntersecting && !found.near) { found.near = true; refresh(); }
    }
  }, { rootMargin: "300px" });
  for (const one of figures) observer.observe(one.element);
  whenIdle();
  dark.addEventListener("change", changed);
  window.addEventListener("beforeprint", () => { printing = true; for (const one of figures) one.stale = true; refresh(true); });
  window.addEventListener("afterprint", () => { printing = false; changed(); });
})();
