"""Names of places in the stream, and what a 1-based layer means."""

from __future__ import annotations

import pytest

from steering_core.hook_points import HookPoint, check_layers, hook_point_of_layer
from steering_core.protocol import PROTOCOLS
from steersweep.errors import UserError


@pytest.mark.parametrize("text", ["blocks.0.resid_pre", "blocks.41.resid_post"])
def test_a_hook_point_survives_its_own_text(text: str) -> None:
    assert str(HookPoint.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "blocks.4.resid_mid",
        "blocks.-1.resid_pre",
        "blocks.4.resid_prex",
        "xblocks.4.resid_pre",
        "blocks..resid_pre",
        "blocks.4.resid_pre\n",
        "",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="not of the form blocks"):
        HookPoint.parse(text)


def test_a_block_leaves_the_stream_that_the_next_one_reads() -> None:
    assert HookPoint(0, "resid_pre").stream == 0
    assert HookPoint(3, "resid_post").stream == HookPoint(4, "resid_pre").stream == 4


def test_layer_is_the_hidden_state_number_of_the_paper() -> None:
    assert hook_point_of_layer(1, "resid_post") == HookPoint(0, "resid_post")
    published, aligned = PROTOCOLS["as_published"], PROTOCOLS["aligned"]
    assert str(published.read_at(5)) == str(aligned.read_at(5)) == "blocks.4.resid_post"
    assert str(published.apply_at(5)) == "blocks.4.resid_pre"
    assert str(aligned.apply_at(5)) == "blocks.4.resid_post"


@pytest.mark.parametrize("layer", [0, -1])
def test_no_layer_means_the_last_block_by_counting_backwards(layer: int) -> None:
    with pytest.raises(UserError, match=f"at least 1, got {layer}"):
        hook_point_of_layer(layer, "resid_pre")


@pytest.mark.parametrize("layer", [0, -1, 27])
def test_layers_outside_the_model_name_it_and_its_range(layer: int) -> None:
    check_layers((1, 26), 26, "google/gemma-2-2b")
    message = rf"layer must be in 1\.\.26 for google/gemma-2-2b, got {layer}"
    with pytest.raises(UserError, match=message):
        check_layers((1, layer), 26, "google/gemma-2-2b")
