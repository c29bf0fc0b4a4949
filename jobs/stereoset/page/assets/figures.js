// Draws the figures of the page from the one table of numbers in #drawn; see figures.py.
"use strict";
(() => {
  const { read, plain, css, styleOf, band, colorscale, axis, layout, drawAll } = Plots;
  const data = read(document.getElementById("drawn"));
  const { values, columns, measures, names, numeric } = data;
  const AXES = ["model", "split", "bias_type", "layer", "coeff"];
  const TITLES = {
    model: "model", split: "split", bias_type: "bias type", layer: "layer", coeff: "coefficient",
    measure: "measure", column: "measure",
  };
  const single = measures.flatMap((m) => m.columns.map((column) => ({ column, ...m, columns: [column] })));
  const rowAt = new Map(columns.model.map((_, row) => [AXES.map((a) => columns[a][row]).join(), row]));
  const range = (n) => Array.from({ length: n }, (_, i) => i);

  function estimate(column, pick) {
    const row = rowAt.get(AXES.map((axis) => pick[axis]).join());
    const value = row === undefined ? null : columns[column][row];
    return value === null
      ? null
      : { value, low: columns[`${column}_low`]?.[row], high: columns[`${column}_high`]?.[row] };
  }

  // Values of an axis that a figure goes along: layers without "all layers".
  const along = (axis) => range(values[axis].length).filter((i) => axis !== "layer" || numeric[i] !== null);
  const place = (axis, i) => (axis === "layer" ? numeric[i] : plain(values[axis][i]));

  function seriesOf(figure, pick) {
    if (figure.series === "measure") {
      return measures[pick.measure].columns.map((column) => ({
        column, pick, name: names[column], style: column.replace("flow_", ""),
      }));
    }
    return values.model.map((name, model) => ({
      column: figure.column ?? single[pick.column].column, pick: { ...pick, model }, name: plain(name), style: `series-${model % 7}`,
    }));
  }

  function pointsOf(figure, series) {
    return along(figure.x)
      .map((i) => ({ x: place(figure.x, i), ...estimate(series.column, { ...series.pick, [figure.x]: i }) }))
      .filter((point) => point.value !== undefined);
  }

  const unitOf = (figure, pick) =>
    figure.unit ?? (figure.choices.includes("column") ? single[pick.column] : measures[pick.measure]).unit;
  const withInterval = (variable, unit) => {
    const digits = unit.startsWith("nats") ? ".3f" : ".1f";
    return `%{${variable}:${digits}}  (%{customdata[0]:${digits}} to %{customdata[1]:${digits}})`;
  };
  const hasInterval = (points) => points.some((p) => p.low !== undefined);
  const hovers = (points, unit) => hasInterval(points)
    ? { customdata: points.map((p) => [p.low, p.high]), hovertemplate: withInterval("y", unit) }
    : { hovertemplate: "%{y:.3f}" };
  const whiskers = (points, color) => ({
    type: "data", symmetric: false, color, thickness: 1.5,
    array: points.map((p) => p.high - p.value), arrayminus: points.map((p) => p.value - p.low),
  });

  function lines(figure, pick) {
    const unit = unitOf(figure, pick);
    return seriesOf(figure, pick).flatMap((series, n) => {
      const points = pointsOf(figure, series);
      const color = css(`--${series.style}`);
      const { dash, symbol } = styleOf(n);
      const line = {
        x: points.map((p) => p.x), y: points.map((p) => p.value), ...hovers(points, unit), name: series.name, legendgroup: series.name,
        type: "scatter", mode: "lines+markers", line: { color, width: 2, dash },
        marker: { color, size: points.length > 30 ? 5 : 7, symbol },
      };
      if (!hasInterval(points)) return [line];
      return points.length > 1
        ? [band(points, color, series.name), line]
        : [{ ...line, error_y: whiskers(points, color) }];
    });
  }

  function bars(figure, pick) {
    const unit = unitOf(figure, pick);
    return seriesOf(figure, pick).map((series) => {
      const points = pointsOf(figure, series);
      return {
        x: points.map((p) => p.x), y: points.map((p) => p.value), ...hovers(points, unit), name: series.name,
        type: "bar", marker: { color: css(`--${series.style}`) }, error_y: whiskers(points, css("--text")),
      };
    });
  }

  function heat(figure, pick) {
    const { column, unit } = single[pick.column];
    const grid = along("coeff").map((coeff) =>
      along("layer").map((layer) => estimate(column, { ...pick, layer, coeff })));
    const found = grid.flat().filter(Boolean);
    const most = Math.max(1e-9, ...found.map((e) => Math.abs(e.value)));
    return found.length === 0 ? [] : [{
      type: "heatmap", zmin: -most, zmax: most, xgap: along("layer").length > 30 ? 0 : 1, ygap: 1,
      x: along("layer").map((i) => place("layer", i)), y: along("coeff").map((i) => place("coeff", i)),
      z: grid.map((row) => row.map((e) => e?.value ?? null)),
      customdata: grid.map((row) => row.map((e) => [e?.low, e?.high])),
      hovertemplate: `layer %{x}, coefficient %{y}<br>${withInterval("z", unit)}<extra></extra>`,
      colorscale: colorscale(),
      colorbar: { title: { text: unit, side: "right" }, thickness: 12, outlinewidth: 0 },
    }];
  }

  function moves(figure, pick) {
    const ends = [...range(3), ...range(3)];
    const labels = ["stereotype", "anti-stereotype", "unrelated"];
    const colors = { as: "--s2a", au: "--u2a", su: "--s2u" }; // by the pair, whatever the direction
    const links = range(9)
      .map((n) => {
        const pair = `${"sau"[Math.floor(n / 3)]}_${"sau"[n % 3]}`;
        const share = estimate(`flow_${pair}`, pick)?.value ?? 0;
        return { source: Math.floor(n / 3), target: 3 + (n % 3), share, color: css(colors[[...pair.replace("_", "")].sort().join("")] ?? "--still") };
      })
      .filter((link) => link.share > 0);
    return links.length === 0 ? [] : [{
      type: "sankey", arrangement: "fixed", valueformat: ".1f", valuesuffix: " %",
      node: {
        label: ends.map((i) => labels[i]), color: css("--muted"), thickness: 12, pad: 18, line: { width: 0 },
        hovertemplate: "%{label}: %{value}<extra></extra>",
      },
      link: {
        source: links.map((l) => l.source), target: links.map((l) => l.target),
        value: links.map((l) => l.share), color: links.map((l) => (l.color.length === 7 ? `${l.color}b0` : l.color)),
        hovertemplate: "%{source.label} → %{target.label}: %{value}<extra></extra>",
      },
    }];
  }

  const TRACES = { lines, bars, heat, moves };

  function layoutOf(figure, pick, isEmpty) {
    const xs = along(figure.x).map((i) => place(figure.x, i));
    const isHeat = figure.kind === "heat";
    const isNumeric = figure.x === "layer" && !isHeat;
    const ticks = isNumeric && xs.length <= 16 ? { tickvals: xs } : {};
    return layout({
      height: isHeat ? 150 + 26 * along("coeff").length : 380,
      xaxis: {
        ...axis(), ...ticks, type: isNumeric ? "linear" : "category", zeroline: false,
        title: { text: TITLES[figure.x] }, unifiedhovertitle: { text: `${TITLES[figure.x]} %{x}` }, showgrid: !isHeat,
      },
      yaxis: {
        ...axis(), type: isHeat ? "category" : "linear", rangemode: "tozero", title: { text: isHeat ? "coefficient" : unitOf(figure, pick) },
        showgrid: !isHeat,
      },
      hovermode: figure.kind === "lines" || figure.kind === "bars" ? "x unified" : "closest",
      annotations: isEmpty
        ? [{ text: "no complete cell here", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }]
        : [],
    });
  }

  function labelsOf(choice) {
    if (choice === "measure") return measures.map((m) => m.title);
    if (choice === "column") return single.map((s) => `${s.title}: ${names[s.column]}`);
    return values[choice];
  }

  function described(figure) {
    const pick = { ...data.start, measure: figure.kind === "bars" ? 1 : 0, column: 0 };
    return {
      name: figure.name,
      choosers: figure.choices.map((choice) => ({
        title: TITLES[choice], labels: labelsOf(choice), value: pick[choice], set: (n) => (pick[choice] = n),
      })),
      view: () => {
        const traces = TRACES[figure.kind](figure, pick);
        const isEmpty = traces.every((trace) => !(trace.x ?? trace.node.label).length);
        return { traces, layout: layoutOf(figure, pick, isEmpty) };
      },
    };
  }

  drawAll(data.figures.map(described));
})();
