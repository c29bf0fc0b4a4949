// What the figures of all pages share: colors, layout, choosers, and drawing again when they change.
"use strict";
const Plots = (() => {
  const read = (holder) => JSON.parse(holder.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "star", "hexagon", "pentagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid"];

  // Plotly reads <b> and the like in labels; names are text.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seeThrough = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))},0.16)`;
  const styleOf = (n) => ({ dash: DASHES[n % 7], symbol: SYMBOLS[n % 7] });

  // The 95 % interval of a line; points are {x, low, high}.
  const band = (points, color, name) => ({
    x: [...points, ...points.toReversed()].map((p) => p.x),
    y: [...points.map((p) => p.high), ...points.toReversed().map((p) => p.low)],
    type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: seeThrough(color),
    hoverinfo: "skip", showlegend: false, legendgroup: name,
  });

  const colorscale = () => [[0, css("--below")], [0.5, css("--zero")], [1, css("--above")]];

  // A dashed line at a value of the vertical axis.
  const threshold = (y) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, layer: "below",
    line: { color: css("--muted"), width: 1.5, dash: "dash" },
  });

  const axis = () => {
    const rule = css("--rule");
    return { gridcolor: rule, zerolinecolor: css("--muted"), linecolor: rule, automargin: true };
  };

  const layout = (more) => {
    const text = css("--text");
    return {
      height: 380,
      margin: { l: 10, r: 10, t: 10, b: 10 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: css("--font"), size: 13 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--rule"), font: { color: text } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: text },
      dragmode: isTouch ? false : "zoom",
      ...more,
    };
  };

  function chooser({ title, labels, value, set }, redraw) {
    const label = document.createElement("label");
    const select = document.createElement("select");
    label.append(title, select);
    labels.forEach((text, n) => select.append(new Option(text, n)));
    select.value = value;
    select.addEventListener("change", () => {
      set(Number(select.value));
      redraw();
    });
    return label;
  }

  // Figures are {name, choosers, view}; view() gives the traces and the layout of what is chosen.
  function draw({ name, choosers, view }) {
    const element = document.getElementById(name);
    const redraw = () => {
      const { traces, layout } = view();
      return Plotly.react(element.querySelector(".plot"), traces, layout, {
        // Its place is beside the title or the choosers (see page.css), so that it covers nothing.
        responsive: true, displaylogo: false, displayModeBar: !isTouch,
        modeBarButtons: [["toImage", "resetScale2d"]],
        toImageButtonOptions: { filename: name, scale: 2 },
      });
    };
    element.querySelector(".choices").append(
      ...choosers.filter((c) => c.labels.length > 1).map((c) => chooser(c, redraw)));
    dark.addEventListener("change", redraw);
    return redraw();
  }

  // A page may have figures of several scripts; it is drawn when all of them are.
  const drawing = [];
  const drawAll = (figures) => drawing.push(...figures.map(draw));
  addEventListener("DOMContentLoaded", () => Promise.all(drawing).then(() => {
    document.documentElement.dataset.drawn = "yes";
    performance.mark("drawn");
  }));

  return { read, plain, css, seeThrough, styleOf, band, colorscale, threshold, axis, layout, drawAll };
})();
