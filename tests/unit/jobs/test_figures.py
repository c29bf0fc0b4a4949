"""Figures: that what they draw are the numbers of the tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from cluster.storage import StorageSpec
from jobs.figures.selection import spread
from jobs.figures.style import styled
from jobs.figures.write import write_figures
from jobs.stereoset.figures.make import figure_names, make_figures, planned_figures, what_is_drawn
from jobs.stereoset.figures.pooling import over_bias_types, over_bias_types_and_layers
from jobs.stereoset.figures.selection import MOST_BY_COEFF
from jobs.stereoset.geometry import GEOMETRY_SCHEMA
from jobs.stereoset.labels import COLORS, legend
from tests.support.summaries import cells_frame, pooled_frame, vectors_frame_of

NO_VECTORS = vectors_frame_of({})
CELLS = cells_frame()
POOLED = pooled_frame(CELLS)


def figure(name: str, cells: pd.DataFrame = CELLS, pooled: pd.DataFrame = POOLED) -> Figure:
    """That figure alone: drawing all of them takes seconds."""
    with styled():
        return planned_figures(cells, pooled, NO_VECTORS)[name]()


def panels(of: Figure, title: str) -> list[Axes]:
    return [axes for axes in of.axes if axes.get_title(loc="left") == title]


def texts(of: Figure) -> set[str]:
    return {text.get_text() for text in of.findobj(Text)}


def heights(axes: Axes, name: str) -> list[float]:
    (bars,) = (c for c in axes.collections if isinstance(c, PolyCollection) and c.get_gid() == name)
    return [float(path.vertices[1, 1]) for path in bars.get_paths()]


def arrows(axes: Axes) -> Iterator[tuple[str, FancyArrowPatch]]:
    for arrow in axes.patches:
        if isinstance(arrow, FancyArrowPatch):
            yield str(arrow.get_gid()), arrow


def test_bars_are_the_estimates_and_whiskers_their_intervals() -> None:
    found = panels(figure("bars-inter-coeff=20"), "race")
    assert len(found) == 2
    for axes, model in zip(found, ("base", "tuned"), strict=True):
        rows = CELLS.query(f"model == '{model}' and bias_type == 'race' and coeff == 20")
        for name in ("s2a", "u2a", "s2u"):
            assert heights(axes, name) == pytest.approx(list(rows[name]))
        ends = [s[:, 1] for c in axes.collections if hasattr(c, "get_segments")
                for s in c.get_segments()]  # fmt: skip
        wanted = [
            rows[[f"{name}_low", f"{name}_high"]].to_numpy() for name in ("s2a", "u2a", "s2u")
        ]
        np.testing.assert_allclose(ends, np.concatenate(wanted))


def test_bars_have_the_colors_and_the_spelling_of_the_page() -> None:
    drawn = figure("bars-inter-coeff=20")
    axes = panels(drawn, "race")[0]
    for name in ("s2a", "u2a", "s2u"):
        (bars,) = (c for c in axes.collections if c.get_gid() == name)
        assert mpl.colors.to_hex(bars.get_facecolor()[0]) == COLORS[name].light
        assert legend(has_intent=True)[name] in texts(drawn)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_arrow_points_the_way_that_its_flow_has(sign: float) -> None:
    pooled = POOLED.assign(
        **{f"{kind}{name}": sign * value
           for kind in ("", "flow_")
           for name, value in (("s2a", 0.4), ("u2a", 0.1), ("s2u", -0.2))},
        flow_s2a_low=-1.0, flow_s2a_high=1.0, flow_u2a_low=0.05, flow_u2a_high=0.2,
    )  # fmt: skip
    drawn = figure("flows-inter-coeff=20", pooled=pooled)
    found = dict(arrows(drawn.axes[0]))
    ways = ["s>a", "u>a", "u>s"] if sign > 0 else ["a>s", "a>u", "s>u"]
    names = ["flow_s2a", "flow_u2a", "flow_s2u"]
    assert set(found) == {f"{name}:{way}" for name, way in zip(names, ways, strict=True)}
    by_name = {gid.partition(":")[0]: arrow for gid, arrow in found.items()}
    # Along the lower edge, from S on the left to A on the right, or back.
    tail, tip = by_name["flow_s2a"]._posA_posB  # type: ignore[attr-defined]
    assert np.sign(tip[0] - tail[0]) == sign
    widths = {name: arrow.get_arrowstyle().tail_width for name, arrow in by_name.items()}
    assert widths["flow_s2a"] == 2 * widths["flow_s2u"] == 4 * widths["flow_u2a"]
    assert by_name["flow_s2a"].get_facecolor() != by_name["flow_u2a"].get_facecolor()
    assert mpl.colors.to_hex(by_name["flow_s2a"].get_facecolor()) == "#c8c8c8"  # holds 0
    assert {"40.0 %", "10.0 %", "20.0 %", "0.400"} <= texts(drawn)


def test_flows_over_all_layers_are_the_headline_where_there_is_one() -> None:
    names = [f"{prefix}{name}" for prefix in ("", "flow_") for name in ("s2a", "u2a", "s2u")]
    headline = pd.DataFrame(
        [
            {"model": model, "split": "inter", "coeff": coeff}
            | {f"{name}{end}": 0.123 for name in names for end in ("", "_low", "_high")}
            for model in ("base", "tuned")
            for coeff in (-2.0, 20.0)
        ]
    )
    planned = planned_figures(CELLS, POOLED, NO_VECTORS, headline=headline)
    with styled():
        drawn = planned["flows-inter-coeff=20"]()
    assert {"12.3 %", "0.123", "all layers, headline"} <= texts(drawn)
    assert any("Headline: the paper's, all layers and" in text for text in texts(drawn))
    without = texts(figure("flows-inter-coeff=20"))
    assert "all layers" in without
    assert not any("headline" in text.lower() for text in without)


def test_a_heat_map_is_the_table_centred_at_zero() -> None:
    (axes,) = panels(figure("heat-map-tuned-inter"), "ICAT")
    (image,) = axes.images
    assert isinstance(image, AxesImage)
    rows = over_bias_types(CELLS, POOLED).query("model == 'tuned'")
    wanted = rows.pivot(index="layer", columns="coeff", values="icat_change")
    np.testing.assert_array_equal(np.asarray(image.get_array()), wanted.to_numpy())
    low, high = image.get_clim()
    assert low == -high
    assert high >= rows["icat_change"].abs().max()


def test_curves_have_a_line_for_each_layer_and_for_all() -> None:
    (axes, _) = panels(figure("curves-inter"), "S→A")[::2]
    lines = [line for line in axes.lines if line.get_gid() == "s2a"]
    pooled = POOLED.query("model == 'base'")
    wanted = [
        *(pooled[pooled["layer"] == layer] for layer in (1, 3)),
        pooled[pooled["layer"].isna()],
    ]
    assert len(lines) == 3
    for line, rows in zip(lines, wanted, strict=True):
        assert list(line.get_xdata()) == [-2.0, 20.0]
        assert list(line.get_ydata()) == pytest.approx(list(rows["s2a"]))


def test_curves_of_very_different_coefficients_are_evenly_spaced() -> None:
    cells = cells_frame(coeffs=(-3.0, 0.5, 400.0))
    drawn = figure("curves-inter", cells, pooled_frame(cells))
    assert list(drawn.axes[0].lines[0].get_xdata()) == [0.0, 1.0, 2.0]
    drawn.canvas.draw()
    labels = [text.get_text() for text in drawn.axes[0].get_xticklabels()]
    assert labels == ["\N{MINUS SIGN}3", "0.5", "400"]


def test_models_stand_beside_each_other() -> None:
    (axes, _) = panels(figure("models-inter-coeff=-2"), "U→A")
    lines = [line for line in axes.lines if line.get_gid() == "u2a"]
    for line, model in zip(lines, ("base", "tuned"), strict=True):
        rows = POOLED.query(f"model == '{model}' and coeff == -2").dropna(subset=["layer"])
        assert list(line.get_xdata()) == [1, 3]
        assert list(line.get_ydata()) == pytest.approx(list(rows["u2a"]))


def test_vectors_are_drawn_by_norm_and_cosine() -> None:
    group = ("m", "s", "gender")
    vectors = vectors_frame_of(
        {
            (*group, 1, None): [3.0, 4.0],
            (*group, 1, 0): [1.0, 0.0],
            (*group, 1, 1): [0.0, 2.0],
            (*group, 2, None): [0.0, 2.0],
            ("m", "s", "race", 1, None): [-4.0, 3.0],
            ("m", "s", "race", 2, None): [0.0, 0.0],
        }
    )
    empty = CELLS.iloc[:0]
    found = make_figures(empty, empty, vectors)
    assert list(found) == [
        "vectors-norms", "vectors-bias-types", "vectors-folds", "vectors-layers-m",
    ]  # fmt: skip

    def line(name: str, label: str) -> list[float]:
        (drawn,) = (x for x in found[name].axes[0].lines if x.get_gid() == label)
        return list(drawn.get_ydata())

    assert line("vectors-norms", "gender") == [5.0, 2.0]
    np.testing.assert_allclose(line("vectors-bias-types", "gender, race"), [0.0, np.nan], atol=1e-9)
    assert line("vectors-folds", "gender") == [0.0]
    (image, *_) = found["vectors-layers-m"].axes[0].images
    np.testing.assert_allclose(np.asarray(image.get_array()), [[1.0, 0.8], [0.8, 1.0]])


def test_where_nothing_is_there_a_kind_is_left_out() -> None:
    empty = CELLS.iloc[:0]
    assert make_figures(empty, empty, NO_VECTORS) == {}
    one = cells_frame(models=["m"], bias_types=["race"], layers=[1], coeffs=[2.0])
    found = make_figures(one, empty, NO_VECTORS)
    assert list(found) == ["bars-inter-coeff=2", "flows-inter-coeff=2"]


def test_what_is_not_complete_is_left_blank_and_the_rest_is_drawn() -> None:
    lacks = (CELLS["model"] == "tuned") & (CELLS["bias_type"] == "race")
    found = make_figures(CELLS[~lacks], POOLED[POOLED["model"] == "base"], NO_VECTORS)
    assert "not complete" in texts(found["bars-inter-coeff=20"])
    (drawn,) = (a for a in panels(found["bars-inter-coeff=20"], "gender")[1:])
    rows = CELLS.query("model == 'tuned' and bias_type == 'gender' and coeff == 20")
    assert heights(drawn, "s2a") == pytest.approx(list(rows["s2a"]))


def test_a_mean_over_complete_bias_types_stands_in_for_a_pooled_row() -> None:
    cells = cells_frame(num_examples=lambda bias_type: 30 if bias_type == "race" else 10)
    rows = over_bias_types(cells, POOLED[POOLED["model"] == "base"]).set_index("model")
    base, tuned = (cells[cells["model"] == m].set_index("bias_type") for m in ("base", "tuned"))
    of_base = POOLED[(POOLED["model"] == "base") & POOLED["layer"].notna()]
    assert sorted(rows.loc["base", "s2a"]) == sorted(of_base["s2a"])
    wanted = (
        0.25 * tuned.loc["gender", "s2a"].to_numpy() + 0.75 * tuned.loc["race", "s2a"].to_numpy()
    )
    assert list(rows.loc["tuned", "s2a"]) == pytest.approx(list(wanted))
    assert rows.loc["tuned", ["s2a_low", "lms_change"]].isna().all(axis=None)
    assert len(base) == len(tuned)
    whole = over_bias_types_and_layers(cells, POOLED)
    assert sorted(whole["s2a"]) == sorted(POOLED[POOLED["layer"].isna()]["s2a"])


def test_nulls_are_drawn_beside_the_fitted_vectors() -> None:
    of_nulls = pd.concat(
        [frame.assign(null="random", draw=0, s2a=frame["s2a"] - 9.0) for frame in (CELLS, POOLED)]
    )
    drawn = make_figures(CELLS, POOLED, NO_VECTORS, of_nulls=of_nulls)["nulls-base-inter-coeff=20"]
    assert {"fitted vectors", "random"} <= texts(drawn)
    fitted, random = (line.get_ydata() for line in panels(drawn, "S→A")[0].lines[:2])
    wanted = over_bias_types(CELLS, POOLED).query("model == 'base' and coeff == 20")["s2a"]
    assert list(fitted) == list(wanted)
    assert list(random) == pytest.approx(list(wanted - 9.0))


def test_many_draws_of_a_null_are_their_median_and_range() -> None:
    of_nulls = pd.concat(
        [
            frame.assign(null="random", draw=draw, s2a=frame["s2a"] + shift)
            for draw, shift in enumerate((-9.0, 1.0, 2.0))
            for frame in (CELLS, POOLED)
        ]
    )
    drawn = make_figures(CELLS, POOLED, NO_VECTORS, of_nulls=of_nulls)["nulls-base-inter-coeff=20"]
    assert "random: median and range of 3 draws" in texts(drawn)
    panel = panels(drawn, "S→A")[0]
    wanted = over_bias_types(CELLS, POOLED).query("model == 'base' and coeff == 20")["s2a"]
    assert list(panel.lines[1].get_ydata()) == pytest.approx(list(wanted + 1.0))
    whiskers = panel.collections[1].get_segments()
    assert [list(of[:, 1]) for of in whiskers] == [
        pytest.approx([value - 9.0, value + 2.0]) for value in wanted
    ]


def test_in_sample_vectors_are_drawn_beside_held_out_ones_which_captions_name() -> None:
    in_sample = pd.concat([frame.assign(s2a=frame["s2a"] + 5.0) for frame in (CELLS, POOLED)])
    planned = planned_figures(
        CELLS, POOLED, NO_VECTORS, steered_with="held-out vectors", in_sample=in_sample
    )
    name = "held-out-base-inter-coeff=20"
    assert figure_names().fullmatch(name)
    with styled():
        drawn = planned[name]()
        others = [draw() for key, draw in planned.items() if not key.startswith("held-out")]
    held_out, in_sample_line = (line.get_ydata() for line in panels(drawn, "S→A")[0].lines[:2])
    assert {"held-out vectors", "in-sample vectors"} <= texts(drawn)
    assert list(in_sample_line) == pytest.approx([value + 5.0 for value in held_out])
    for figure_ in others:
        assert any("Held-out vectors." in text for text in texts(figure_))


def test_anisotropy_is_drawn_over_bias_types_a_line_for_each_model() -> None:
    rows = [
        (model, split, bias_type, layer, 20, 3.0 + layer, 0.1 * layer + shift, 0.05)
        for model, shift in (("base", 0.2), ("tuned", 0.0))
        for split in ("inter", "all")
        for bias_type in ("gender", "race", "all")
        for layer in (3, 1)
    ]
    geometry = pd.DataFrame(rows, columns=GEOMETRY_SCHEMA.names)
    (drawn,) = make_figures(CELLS.iloc[:0], POOLED.iloc[:0], NO_VECTORS, geometry=geometry).values()
    (panel,) = panels(drawn, "cosine to the mean direction")
    lines = {line.get_gid(): line.get_xydata() for line in panel.lines}
    np.testing.assert_allclose(lines["base"], [[1, 0.3], [3, 0.5]])
    np.testing.assert_allclose(lines["tuned"], [[1, 0.1], [3, 0.3]])


@pytest.mark.parametrize("name", ["a$b$c", "<script>alert(1)</script>", "$\\frac{1}{", "../up"])
def test_a_name_stays_text(name: str, tmp_path: Path) -> None:
    cells = cells_frame(models=[name, "other"], coeffs=[1.0])
    vectors = vectors_frame_of({(name, "s", "gender", layer, None): [1.0, 2.0] for layer in (1, 2)})
    drawn = figure("bars-inter-coeff=1", cells, pooled_frame(cells))
    assert any(name in text for text in texts(drawn))
    planned = planned_figures(cells, pooled_frame(cells), vectors)
    planned = {key: draw for key, draw in planned.items() if name in key}
    assert {key.removesuffix(name) for key in planned} >= {"vectors-layers-"}
    write_figures(StorageSpec(str(tmp_path / "out")).open(), planned, figure_names())
    assert {path.parent for path in tmp_path.rglob("*.*")} == {tmp_path / "out" / "figures"}


def test_long_names_are_shortened_and_their_figures_still_made() -> None:
    cells = cells_frame(models=["x" * 200, "y" * 200], coeffs=[1.0])
    drawn = figure("models-inter-coeff=1", cells, pooled_frame(cells))
    assert f"{'x' * 35}…{'x' * 34}" in texts(drawn)


def test_many_labels_do_not_overlap() -> None:
    cells = cells_frame(layers=range(1, 81), coeffs=np.linspace(-400, 400, 21), models=["m"])
    for name in ("bars-inter-coeff=400", "heat-map-m-inter", "curves-inter"):
        drawn = figure(name, cells, pooled_frame(cells))
        drawn.canvas.draw()
        for axes in drawn.axes:
            for axis in (axes.xaxis, axes.yaxis):
                boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text()]
                for one, two in pairwise(boxes):
                    assert not one.overlaps(two), (name, axes.get_title(loc="left"))


def test_many_coefficients_share_a_bounded_number_of_figures() -> None:
    cells = cells_frame(splits=("inter", "intra"), coeffs=[float(c) for c in range(1, 40)])
    figures = planned_figures(cells, pooled_frame(cells), NO_VECTORS)
    of_bars = [name for name in figures if name.startswith("bars-")]
    assert len(of_bars) == MOST_BY_COEFF
    assert {"bars-inter-coeff=1", "bars-intra-coeff=39"} <= set(of_bars)
    assert "3 of 39 coefficients" in what_is_drawn(figures, cells)
    assert "of" not in what_is_drawn({}, CELLS).split()


def test_values_are_spread_from_the_first_to_the_last() -> None:
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2, 3], 1) == [3]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_figures_are_written_and_what_is_no_longer_made_goes(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "out") if where == "local" else request.getfixturevalue("s3_uri")
    storage = StorageSpec(uri).open()
    for key in ("figures/bars-old-coeff1.png", "figures/mine.png"):
        storage.replace(key, b"old")
    planned = planned_figures(CELLS, POOLED, NO_VECTORS)
    figures = {"bars-inter-coeff=20": planned["bars-inter-coeff=20"]}
    write_figures(storage, figures, figure_names())
    made = {entry.key: storage.read(entry.key) for entry in storage.list("figures/")}
    assert list(made) == [
        "figures/bars-inter-coeff=20.pdf", "figures/bars-inter-coeff=20.png", "figures/mine.png",
    ]  # fmt: skip
    assert made["figures/bars-inter-coeff=20.png"].startswith(b"\x89PNG")
    assert made["figures/bars-inter-coeff=20.pdf"].startswith(b"%PDF")
    write_figures(storage, figures, figure_names())
    assert {entry.key: storage.read(entry.key) for entry in storage.list("figures/")} == made


def test_settings_of_the_process_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    figure("bars-inter-coeff=20")
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in _loaded("import jobs.stereoset.figures.make")


def test_a_process_that_draws_figures_does_not_load_torch() -> None:
    loaded = _loaded(
        "import jobs.processes.main, jobs.stereoset.figures.make, jobs.persona.figures"
    )
    assert "matplotlib.figure" in loaded
    assert not {"torch", "ray", "transformers"} & loaded


def test_the_command_line_loads_matplotlib_for_figures_only() -> None:
    loaded = _loaded("import jobs.cli, jobs.stereoset.report, jobs.scoring.status")
    assert "jobs.stereoset.report" in loaded
    assert "matplotlib" not in loaded


def _loaded(source: str) -> set[str]:
    code = f"{source}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
