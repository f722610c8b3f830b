"use strict";
// Draws the page's charts. Each `figure[data-chart]` names a Vega-Lite specification and, in `data-where`, values that its
// rows must have; a specification's `usermeta` says which of the page's choices select rows too.
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const style = () => getComputedStyle(document.documentElement);
  const tables = {};
  for (const [name, columns] of Object.entries(report.rows)) tables[name] = rowsOf(columns);
  const choice = { track: report.tracks[0] ?? null, shown: new Set(report.shown), tree: report.trees[0] ?? null, domain: report.mean };
  const views = new Map();

  // Columns to rows; a column of names is stored as its different values and, for each row, which of them.
  function rowsOf(columns) {
    const names = Object.keys(columns);
    const decoded = names.map((name) => {
      const column = columns[name];
      return Array.isArray(column) ? column : column.codes.map((code) => (code < 0 ? null : column.values[code]));
    });
    const count = decoded.length ? decoded[0].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name, j) => [name, decoded[j][i]])));
  }

  function looks(teacher) {
    const place = report.teachers[teacher];
    const css = style();
    if (!place) return { colour: css.getPropertyValue("--c0").trim(), dash: [1, 0] };
    const dashes = [[1, 0], [6, 3], [2, 2]];
    if (place.control) {
      return { colour: css.getPropertyValue("--control").trim(), dash: [[5, 3], [2, 2], [8, 3, 2, 3], [1, 3]][place.order % 4] };
    }
    const colour = css.getPropertyValue(`--c${place.order % 10}`).trim();
    return { colour, dash: dashes[Math.floor(place.order / 10) % dashes.length] };
  }

  function config(width) {
    const get = (name) => style().getPropertyValue(name).trim();
    const text = get("--text"), muted = get("--muted"), line = get("--line");
    const limit = width < 500 ? 116 : 220;
    return {
      background: null,
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      axis: {
        labelColor: text, titleColor: muted, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: "normal",
        labelFontSize: 12, titleFontSize: 12, labelLimit: limit, gridOpacity: 0.7,
      },
      legend: {
        labelColor: text, titleColor: muted, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, orient: "top",
        gradientLength: Math.min(180, width / 2), labelLimit: limit, titleLimit: width - 20,
      },
      text: { color: text, fontSize: 12 },
      rule: { color: muted },
      point: { filled: true },
      range: {
        diverging: [get("--down"), get("--middle"), get("--up")],
        heatmap: [get("--ramp-low"), get("--ramp-high")],
        ramp: [get("--ramp-low"), get("--ramp-high")],
        category: [get("--c0"), get("--c1"), get("--c2"), get("--c3"), get("--c4")],
      },
    };
  }

  // A specification with what only the page knows: colours, which stand as names of CSS variables, and domains that are
  // symmetric about 0, which stand as the column that they are of.
  function resolved(value, rows) {
    if (typeof value === "string") return value.startsWith("--") ? style().getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((inner) => resolved(inner, rows));
    if (value && typeof value === "object") {
      if ("symmetric" in value) {
        const reach = Math.max(1, ...rows.map((row) => Math.abs(row[value.symmetric] ?? 0)));
        return [-reach, 0, reach];
      }
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner, rows)]));
    }
    return value;
  }

  function rowsFor(figure, meta) {
    const where = JSON.parse(figure.dataset.where || "{}");
    const by = meta.by ?? [];
    return tables[meta.rows].filter((row) =>
      Object.entries(where).every(([name, value]) => row[name] === value) &&
      (!by.includes("track") || row.track === choice.track) &&
      (!by.includes("domain") || row.domain === choice.domain) &&
      (!by.includes("shown") || choice.shown.has(row.teacher)) &&
      (!by.includes("tree") || row.tree === choice.tree));
  }

  async function draw(figure) {
    const plot = figure.querySelector(".plot");
    const original = report.charts[figure.dataset.chart];
    const rows = rowsFor(figure, original.usermeta);
    forget(figure);
    if (rows.length === 0) {
      say(figure, figure.dataset.empty);
      return;
    }
    const spec = resolved(original, rows);
    const values = rows.map((row) => ("teacher" in row ? { ...row, ...looks(row.teacher) } : row));
    spec.datasets = { rows: values };
    // A layer for a column that no row has would have no extent.
    const missing = Object.entries(spec.usermeta.optional ?? {}).filter(([name]) => values.every((row) => row[name] === null));
    for (const [, place] of missing) spec.layer.splice(place, 1);
    const lines = spec.encoding.y?.field;
    if (spec.height.step) spec.height = spec.height.step * new Set(values.map((row) => row[lines])).size;
    for (const param of spec.params ?? []) {
      // A slider runs over what there is.
      if (param.bind?.input === "range") {
        const found = values.map((row) => row[param.name]);
        param.bind.min = Math.min(...found);
        param.bind.max = Math.max(...found);
        param.value = param.bind.max;
        if (param.bind.min === param.bind.max) delete param.bind;
      }
    }
    const options = {
      mode: "vega-lite", renderer: "svg", ast: true, config: config(plot.clientWidth), tooltip: { theme: "custom" },
      actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: figure.dataset.chart,
    };
    views.set(figure, await vegaEmbed(plot, spec, options));
  }

  function say(figure, text) {
    const plot = figure.querySelector(".plot");
    const note = document.createElement("div");
    note.className = "empty";
    note.textContent = text;
    plot.className = "plot";
    plot.replaceChildren(note);
  }

  // One chart that cannot be drawn takes no other with it.
  async function attempt(figure) {
    try {
      await draw(figure);
    } catch (error) {
      console.error(error);
      say(figure, "This chart cannot be drawn by this browser.");
    }
  }

  function forget(figure) {
    views.get(figure)?.finalize();
    views.delete(figure);
  }

  const hidden = (figure) => figure.closest("[hidden], details:not([open])") !== null;

  const figures = [...document.querySelectorAll("figure[data-chart]")];
  let drawn = Promise.resolve();
  // Draws what depends on a choice, or everything, and what was not to be seen before.
  function redraw(uses) {
    for (const part of document.querySelectorAll("[data-track]")) {
      // What there is for single environments only stands under the overall choice, too.
      const within = part.hasAttribute("data-within") && !report.within.includes(choice.track);
      part.hidden = part.dataset.track !== choice.track && !within;
      if (part.dataset.track === choice.track && part.tagName === "DETAILS") part.open = true;
    }
    const wanted = figures.filter((figure) => {
      const by = report.charts[figure.dataset.chart].usermeta.by ?? [];
      return !hidden(figure) && (!uses || by.includes(uses) || !views.has(figure));
    });
    // What was out of sight when the window changed learns its width now.
    window.dispatchEvent(new Event("resize"));
    drawn = drawn.then(() => Promise.all(wanted.map(attempt)));
    // For whoever waits until the page stands.
    document.documentElement.dataset.drawn = "no";
    drawn.then(() => { document.documentElement.dataset.drawn = "yes"; });
  }

  for (const name of ["track", "tree", "domain"]) {
    document.getElementById(`choose-${name}`)?.addEventListener("change", (event) => {
      choice[name] = event.target.value;
      redraw(name);
    });
  }

  const chips = document.getElementById("chips");
  function paint() {
    for (const chip of chips?.children ?? []) {
      const name = chip.dataset.teacher;
      const look = looks(name);
      const mark = chip.querySelector("i");
      mark.style.borderTopColor = look.colour;
      mark.style.borderTopStyle = look.dash[1] === 0 ? "solid" : look.dash[0] > 2 ? "dashed" : "dotted";
      chip.setAttribute("aria-pressed", String(choice.shown.has(name)));
    }
  }
  chips?.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    const name = chip.dataset.teacher;
    if (!choice.shown.delete(name)) choice.shown.add(name);
    paint();
    redraw("shown");
  });

  // What was folded away is drawn when it is opened.
  for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", () => redraw("nothing"));

  paint();
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    figures.forEach(forget);
    paint();
    redraw();
  });
})();
