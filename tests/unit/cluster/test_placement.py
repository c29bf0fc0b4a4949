"""How many replicas fit nodes, and what is said where too few do."""

from __future__ import annotations

import pytest

from cluster.backends.ray_backend import actor_options
from cluster.placement import Node, Share, check_selector, num_fitting, num_replicas, why_no_room
from steersweep.errors import UserError

SMALL = Node({"CPU": 8.0, "GPU": 2.0, "accelerator_type:L4": 1.0}, {"zone": "eu"})
LARGE = Node({"CPU": 32.0, "GPU": 4.0, "accelerator_type:A100": 1.0}, {"zone": "us", "spot": "yes"})
HOST = Node(
    {"CPU": 96.0, "TPU": 4.0, "TPU-v5litepod-16-head": 1.0, "accelerator_type:TPU-V5LITEPOD": 1.0}
)
NODES = (SMALL, LARGE, HOST)


@pytest.mark.parametrize(
    ("share", "fits"),
    [
        (Share(1.0), (8, 32, 96)),
        (Share(0.1), (80, 320, 960)),
        (Share(3.0), (2, 10, 32)),
        (Share(1.0, 1.0), (2, 4, 0)),
        (Share(1.0, 2.0), (1, 2, 0)),
        (Share(1.0, 4.0), (0, 1, 0)),  # never two nodes' GPUs together
        (Share(1.0, 0.25), (8, 16, 0)),
        (Share(1.0, 0.4), (4, 8, 0)),  # two on each GPU, not five on two
        (Share(1.0, 0.1), (8, 32, 0)),  # CPUs end first
        (Share(1.0, resources={"TPU": 1.0}), (0, 0, 4)),
        (Share(1.0, resources={"TPU": 4.0, "TPU-v5litepod-16-head": 1.0}), (0, 0, 1)),
        (Share(1.0, 1.0, accelerator_type="A100"), (0, 4, 0)),
        (Share(1.0, labels={"zone": "eu"}), (8, 0, 0)),
        (Share(1.0, labels={"zone": "in(eu, us)"}), (8, 32, 0)),
        (Share(1.0, labels={"zone": "!eu"}), (0, 32, 96)),  # Ray takes a node without the label
        (Share(1.0, labels={"zone": "!in(eu,us)"}), (0, 0, 96)),
        (Share(1.0, labels={"zone": "us", "spot": "!yes"}), (0, 0, 0)),
    ],
)
def test_replicas_are_counted_node_by_node(share: Share, fits: tuple[int, ...]) -> None:
    assert tuple(num_fitting(node, share) for node in NODES) == fits
    if sum(fits):
        assert num_replicas(None, share, NODES, 10**6, may_grow=False) == sum(fits)


def test_as_many_as_asked_for_as_fit_and_as_there_are_tasks() -> None:
    share = Share(1.0, 1.0)
    assert num_replicas(None, share, NODES, 3, may_grow=False) == 3
    assert num_replicas(None, share, NODES, 0, may_grow=False) == 1
    assert num_replicas(5, share, NODES, 100, may_grow=False) == 5
    assert num_replicas(7, share, NODES, 100, may_grow=True) == 7
    assert num_replicas(None, share, NODES, 100, may_grow=True) == 6
    with pytest.raises(UserError, match="has room for 6"):
        num_replicas(7, share, NODES, 100, may_grow=False)
    with pytest.raises(UserError, match="largest node has 4"):
        num_replicas(7, Share(1.0, 8.0), NODES, 100, may_grow=True)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (
            Share(1.0, 8.0),
            "a replica asks for 8 GPUs; the largest node has 4 "
            "(3 nodes in the cluster); ask for less, or add such a node",
        ),
        (
            Share(128.0),
            "a replica asks for 128 CPUs; the largest node has 96 (",
        ),
        (
            Share(1.0, resources={"TPU": 8.0}),
            "a replica asks for 8 TPU; the largest node has 4 (",
        ),
        (
            Share(1.0, resources={"disk": 1.0}),
            "a replica asks for 1 disk; the largest node has 0 (",
        ),
        (
            Share(1.0, 1.0, accelerator_type="H100"),
            "a replica asks for an accelerator H100; the 3 nodes of the cluster have A100, L4, "
            "TPU-V5LITEPOD; use a kind",
        ),
        (
            Share(1.0, labels={"zone": "asia"}),
            "nodes with zone=asia are asked for; none of the 3 nodes of the cluster has "
            "that (their zone: eu, us); change",
        ),
        (
            Share(1.0, 4.0, labels={"zone": "eu"}),
            "a replica asks for 4 GPUs; the largest node has 2 (1 node of 3, those with the "
            "labels, in the cluster)",
        ),
        (
            Share(64.0, 1.0),
            "a replica asks for 64 CPUs and 1 GPU; some node has each of these, but none of the",
        ),
    ],
)
def test_a_refusal_is_one_line_with_both_numbers(share: Share, said: str) -> None:
    message = str(why_no_room(1, share, NODES))
    assert said in message
    assert "\n" not in message


def test_too_many_replicas_are_told_from_one_that_is_too_large() -> None:
    assert str(why_no_room(9, Share(2.0, 1.0), NODES)) == (
        "9 replicas with 2 CPUs and 1 GPU each are asked for; the cluster of 3 nodes "
        "has room for 6; ask for fewer or smaller ones"
    )


@pytest.mark.parametrize("selector", ["", "a b", "in()", "!!a", "-a", "in(a", "not(a)"])
def test_a_selector_that_ray_would_not_take_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match=r"must be value, !value, in\(value, value\)"):
        check_selector(selector)


@pytest.mark.ray
@pytest.mark.parametrize("selector", ["a", "!a", "in(a, b)", "in(a,b)", "!in(a, b)", "a.b-c_d"])
def test_a_selector_that_is_taken_here_is_taken_by_ray(selector: str) -> None:
    import ray

    assert check_selector(selector) == selector
    options = actor_options(Share(labels={"zone": selector}))
    ray.remote(Node).options(**options)  # raises for what Ray does not understand


def test_a_share_becomes_options_of_an_actor() -> None:
    share = Share(2.0, 0.25, "A100", {"fast_disk": 1.0}, {"zone": "!eu"})
    assert actor_options(share) == {
        "num_cpus": 2.0,
        "num_gpus": 0.25,
        "accelerator_type": "A100",
        "resources": {"fast_disk": 1.0},
        "label_selector": {"zone": "!eu"},
    }
    assert share.gpu_share == 0.25
    assert (Share().gpu_share, Share(1.0, 2.0).gpu_share) == (1.0, 2.0)
