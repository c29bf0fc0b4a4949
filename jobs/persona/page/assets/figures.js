// Draws the figures of the page from the data in #drawn; see figures.py.
"use strict";
(() => {
  const { data, plain, css, seeThrough, styleOf, band, colorscale, threshold, axis, layout, drawAll } = Plots;

  function lines(figure, series) {
    return series.flatMap((line, n) => {
      const color = css(`--series-${n % 7}`);
      const { dash, symbol } = styleOf(n);
      const name = plain(line.name);
      const known = line.x
        .map((x, i) => ({ x, low: line.low[i], high: line.high[i] }))
        .filter((point) => point.low !== null && point.high !== null);
      const own = {
        x: line.x, y: line.y, name, legendgroup: name, type: "scatter", mode: "lines+markers", line: { color, width: 2, dash },
        marker: { color, size: line.marked.map((m) => (m ? 10 : 7)), symbol: line.marked.map((m) => (m ? "x" : symbol)) },
        customdata: line.low.map((low, i) => [low, line.high[i]]),
        hovertemplate: "%{y:.1f}  (%{customdata[0]:.1f} to %{customdata[1]:.1f})",
      };
      return known.length > 1 ? [band(known, color, name), own] : [own];
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
      colorscale: colorscale(),
      colorbar: { thickness: 12, outlinewidth: 0 },
    }];
  }

  const TRACES = { lines, boxes, heat };

  function layoutOf(figure, series) {
    const isHeat = figure.kind === "heat";
    const xs = figure.kind === "lines" ? [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b) : [];
    return layout({
      height: isHeat ? 150 + 60 * series[0].y.length : 380,
      xaxis: {
        ...axis(), type: xs.length ? "linear" : "category", title: { text: plain(figure.x) }, zeroline: false, showgrid: !isHeat,
        ...(xs.length && xs.length <= 16 ? { tickvals: xs } : {}),
        unifiedhovertitle: { text: `${plain(figure.x)} %{x}` },
      },
      yaxis: {
        ...axis(), title: { text: plain(figure.y) }, showgrid: !isHeat,
        ...(isHeat ? { autorange: "reversed", type: "category" } : {}),
        ...(figure.kind === "lines" ? { range: [figure.limits[0] - 3, figure.limits[1] + 3] } : {}),
      },
      shapes: figure.threshold === null ? [] : [threshold(figure.threshold)],
      hovermode: figure.kind === "lines" ? "x unified" : "closest",
    });
  }

  function described(figure) {
    let view = figure.start;
    return {
      name: figure.name,
      choosers: [{ title: figure.choice, labels: figure.views.map((of) => of.label), value: view, set: (n) => (view = n) }],
      view: () => {
        const { series } = figure.views[view];
        return { traces: TRACES[figure.kind](figure, series), layout: layoutOf(figure, series) };
      },
    };
  }

  drawAll(data.map(described));
})();
