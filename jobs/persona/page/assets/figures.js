// Draws the figures of the page from the data in #drawn; see figures.py.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("drawn").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "star", "hexagon", "pentagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid"];

  // Plotly reads <b> and the like in labels; names are text.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seeThrough = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))},0.16)`;

  function lines(figure, series) {
    return series.flatMap((line, n) => {
      const color = css(`--series-${n % 7}`);
      const name = plain(line.name);
      const known = line.x.map((_, i) => i).filter((i) => line.low[i] !== null && line.high[i] !== null);
      const band = {
        x: [...known, ...known.toReversed()].map((i) => line.x[i]),
        y: [...known.map((i) => line.high[i]), ...known.toReversed().map((i) => line.low[i])],
        type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: seeThrough(color),
        hoverinfo: "skip", showlegend: false, legendgroup: name,
      };
      const own = {
        x: line.x, y: line.y, name, legendgroup: name, type: "scatter", mode: "lines+markers",
        line: { color, width: 2, dash: DASHES[n % 7] },
        marker: { color, size: line.marked.map((m) => (m ? 10 : 7)), symbol: line.marked.map((m) => (m ? "x" : SYMBOLS[n % 7])) },
        customdata: line.low.map((low, i) => [low, line.high[i]]),
        hovertemplate: "%{y:.1f}  (%{customdata[0]:.1f} to %{customdata[1]:.1f})",
      };
      return known.length > 1 ? [band, own] : [own];
    });
  }

  function boxes(figure, series) {
    return series.map((box) => ({
      type: "box", name: plain(box.name), x: [plain(box.name)], showlegend: false,
      lowerfence: [box.low], q1: [box.lower], median: [box.median], q3: [box.upper], upperfence: [box.high],
      line: { color: css("--series-0"), width: 1.5 }, fillcolor: seeThrough(css("--series-0")), hoverinfo: "y",
    }));
  }

  function heat(figure, [grid]) {
    return [{
      type: "heatmap", x: grid.x.map(plain), y: grid.y.map(plain), z: grid.z, xgap: 1, ygap: 1,
      zmin: figure.limits[0], zmax: figure.limits[1],
      text: grid.z.map((row) => row.map((z) => (z === null ? "" : z.toFixed(2)))), texttemplate: "%{text}",
      hovertemplate: "%{y}, %{x}: %{z:.3f}<extra></extra>",
      colorscale: [[0, css("--below")], [0.5, css("--zero")], [1, css("--above")]],
      colorbar: { thickness: 12, outlinewidth: 0 },
    }];
  }

  const TRACES = { lines, boxes, heat };

  function layoutOf(figure, series) {
    const text = css("--text"), rule = css("--rule");
    const axis = { gridcolor: rule, zerolinecolor: css("--muted"), linecolor: rule, automargin: true };
    const isHeat = figure.kind === "heat";
    const xs = figure.kind === "lines" ? [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b) : [];
    return {
      height: isHeat ? 150 + 60 * series[0].y.length : 380,
      margin: { l: 10, r: 10, t: 10, b: 10 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: css("--font"), size: 13 },
      xaxis: {
        ...axis, type: xs.length ? "linear" : "category", title: { text: plain(figure.x) }, zeroline: false, showgrid: !isHeat,
        ...(xs.length && xs.length <= 16 ? { tickvals: xs } : {}),
        unifiedhovertitle: { text: `${plain(figure.x)} %{x}` },
      },
      yaxis: {
        ...axis, title: { text: plain(figure.y) }, showgrid: !isHeat,
        ...(isHeat ? { autorange: "reversed", type: "category" } : {}),
        ...(figure.kind === "lines" ? { range: [figure.limits[0] - 3, figure.limits[1] + 3] } : {}),
      },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: rule, font: { color: text } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: text },
      hovermode: figure.kind === "lines" ? "x unified" : "closest",
      dragmode: isTouch ? false : "zoom",
    };
  }

  function start(figure) {
    const element = document.getElementById(figure.name);
    const plot = element.querySelector(".plot");
    let view = 0;
    const draw = () => {
      const { series } = figure.views[view];
      const config = {
        responsive: true, displaylogo: false, displayModeBar: isTouch ? false : "hover",
        modeBarButtons: [["toImage", "resetScale2d"]],
        toImageButtonOptions: { filename: figure.name, scale: 2 },
      };
      return Plotly.react(plot, TRACES[figure.kind](figure, series), layoutOf(figure, series), config);
    };
    if (figure.views.length > 1) {
      const label = document.createElement("label");
      const select = document.createElement("select");
      label.append(figure.choice, select);
      figure.views.forEach((of, n) => select.append(new Option(of.label, n)));
      select.addEventListener("change", () => {
        view = Number(select.value);
        draw();
      });
      element.querySelector(".choices").append(label);
    }
    dark.addEventListener("change", draw);
    return draw();
  }

  Promise.all(figures.map(start)).then(() => {
    document.documentElement.dataset.drawn = "yes";
    performance.mark("drawn");
  });
})();
