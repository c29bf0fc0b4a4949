// Draws figures from the views in the page's data; see views.py.
"use strict";
(() => {
  const { read, plain, css, seeThrough, styleOf, band, colorscale, threshold, axis, layout, drawAll } = Plots;

  function lines({ digits }, { series }) {
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
        hovertemplate: `%{y:.${digits}f}  (%{customdata[0]:.${digits}f} to %{customdata[1]:.${digits}f})`,
      };
      return known.length > 1 ? [band(known, color, name), own] : [own];
    });
  }

  function boxes(figure, { series }) {
    return series.map((box) => ({
      type: "box", name: plain(box.name), x: [plain(box.name)], showlegend: false,
      lowerfence: [box.low], q1: [box.lower], median: [box.median], q3: [box.upper], upperfence: [box.high],
      line: { color: css("--series-0"), width: 1.5 }, fillcolor: seeThrough(css("--series-0")), hoverinfo: "y",
    }));
  }

  function heat({ digits, limits, y }, view) {
    const [grid] = view.series;
    const most = Math.max(1e-9, ...grid.z.flat().map((z) => Math.abs(z ?? 0)));
    const [zmin, zmax] = limits ?? [-most, most];
    const hasRoom = grid.x.length <= 16; // for numbers in the cells
    return [{
      type: "heatmap", x: grid.x.map(plain), y: grid.y.map(plain), z: grid.z, xgap: 1, ygap: 1, zmin, zmax,
      text: grid.z.map((row) => row.map((z) => (z === null ? "" : z.toFixed(digits)))), texttemplate: hasRoom ? "%{text}" : "",
      hovertemplate: `%{y}, %{x}: %{z:.${digits + 1}f}<extra></extra>`,
      colorscale: colorscale(),
      colorbar: { title: { text: plain(limits ? "" : view.y ?? y), side: "right" }, thickness: 12, outlinewidth: 0 },
    }];
  }

  const whiskers = (values, low, high, color) => low && {
    type: "data", symmetric: false, color, thickness: 1,
    array: values.map((value, i) => (high[i] === null ? 0 : high[i] - value)),
    arrayminus: values.map((value, i) => (low[i] === null ? 0 : value - low[i])),
  };

  function scatter({ digits }, { series }) {
    return series.map((points, n) => {
      const color = css(`--series-${n % 7}`);
      return {
        x: points.x, y: points.y, name: plain(points.name), text: points.texts.map(plain), type: "scatter",
        mode: points.is_line ? "lines+markers" : "markers", line: { color, width: 1.5, dash: "dot" },
        marker: { color, size: 9, symbol: styleOf(n).symbol },
        error_x: whiskers(points.x, points.x_low, points.x_high, color), error_y: whiskers(points.y, points.y_low, points.y_high, color),
        hovertemplate: `%{text}<br>%{y:.${digits}f} intended, %{x:.${digits}f} unintended`,
      };
    });
  }

  const TRACES = { lines, boxes, heat, scatter };

  function axisOfLines(figure) {
    return figure.limits ? { range: [figure.limits[0] - 3, figure.limits[1] + 3] } : { rangemode: "tozero" };
  }

  function layoutOf(figure, { series, y }) {
    const isHeat = figure.kind === "heat";
    const isLines = figure.kind === "lines";
    const isScatter = figure.kind === "scatter";
    const xs = isLines ? [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b) : [];
    return layout({
      height: isHeat ? 150 + (figure.limits ? 60 : 40) * series[0].y.length : 380,
      xaxis: {
        ...axis(), type: xs.length || isScatter ? "linear" : "category", title: { text: plain(figure.x) }, zeroline: false, showgrid: !isHeat,
        ...(xs.length && xs.length <= 16 ? { tickvals: xs } : {}),
        ...(isScatter ? { rangemode: "tozero" } : {}),
        unifiedhovertitle: { text: `${plain(figure.x)} %{x}` },
      },
      yaxis: {
        ...axis(), title: { text: plain(isHeat ? figure.y : y ?? figure.y) }, showgrid: !isHeat,
        ...(isHeat ? { autorange: "reversed", type: "category" } : {}),
        ...(isLines ? axisOfLines(figure) : {}),
        ...(isScatter ? { rangemode: "tozero" } : {}),
      },
      shapes: figure.threshold === null ? [] : [threshold(figure.threshold)],
      hovermode: isLines ? "x unified" : "closest",
    });
  }

  function described(figure) {
    const picked = [...figure.views[figure.start].labels];
    const choosers = figure.choices.map((title, k) => {
      const labels = [...new Set(figure.views.map((view) => view.labels[k]))];
      return { title, labels, value: labels.indexOf(picked[k]), set: (n) => (picked[k] = labels[n]) };
    });
    const view = () => {
      const found = figure.views.find(({ labels }) => labels.every((label, k) => label === picked[k]));
      return { traces: TRACES[figure.kind](figure, found), layout: layoutOf(figure, found) };
    };
    return { name: figure.name, choosers, view };
  }

  drawAll([...document.querySelectorAll("script.views")].flatMap(read).map(described));
})();
