"""Mean differences, cross-fitting, folds by target term, and the file that holds vectors."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from steering_core.vectors import (
    FoldSums,
    SteeringVectors,
    StreamSums,
    Unit,
    assign_folds,
    fit_mean_difference,
    from_safetensors,
    mean_stream_norms,
    safetensors_metadata,
    to_safetensors,
)
from steersweep.errors import UserError

WIDTH = 5


def differences(num_examples: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_examples, WIDTH))


def sums_by_task(values_ND: np.ndarray, folds: list[int], layer: int) -> list[FoldSums]:
    """Sums of two tasks, as the shards of a group deliver them."""
    fold_N = np.array(folds)
    half = len(fold_N) // 2
    return [
        FoldSums(layer, fold, values_ND[part][fold_N[part] == fold].sum(axis=0), int(count))
        for part in (slice(0, half), slice(half, None))
        for fold in sorted(set(folds))
        if (count := (fold_N[part] == fold).sum())
    ]


def test_vector_is_the_mean_over_all_examples_in_float32() -> None:
    values = {2: differences(seed=2), 1: differences(seed=1)}
    sums = [s for layer, v in values.items() for s in sums_by_task(v, [0] * 12, layer)]
    vectors = fit_mean_difference(sums, num_folds=1)
    assert vectors.folds == {}
    assert list(vectors.whole) == [1, 2]
    for layer, wanted in values.items():
        assert vectors.whole[layer].dtype == np.float32
        np.testing.assert_array_equal(
            vectors.whole[layer], (wanted.sum(axis=0) / 12).astype(np.float32)
        )
        assert vectors.for_fold(layer, 0) is vectors.whole[layer]


def test_sums_are_kept_in_float64() -> None:
    """In float32 the small examples between two large ones would be lost."""
    totals = [np.full(WIDTH, v) for v in (1e9, 1.0, 1.0, -1e9)]
    vectors = fit_mean_difference([FoldSums(1, 0, t, 1) for t in totals], num_folds=1)
    np.testing.assert_array_equal(vectors.whole[1], np.full(WIDTH, 0.5, np.float32))


def test_a_fold_is_steered_by_the_mean_over_the_other_folds() -> None:
    folds = [0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2, 2]
    values = differences()
    vectors = fit_mean_difference(sums_by_task(values, folds, 3), num_folds=3)
    for fold in range(3):
        outside = values[np.array(folds) != fold]
        np.testing.assert_allclose(vectors.for_fold(3, fold), outside.mean(axis=0), rtol=1e-6)
        assert vectors.for_fold(3, fold).dtype == np.float32
    np.testing.assert_allclose(vectors.whole[3], values.mean(axis=0), rtol=1e-6)


def test_callers_sums_are_not_changed() -> None:
    total = np.ones(WIDTH)
    sums = [FoldSums(1, 0, total, 1), FoldSums(1, 1, total, 1), FoldSums(1, 0, total, 1)]
    fit_mean_difference(sums, num_folds=2)
    np.testing.assert_array_equal(total, np.ones(WIDTH))


def test_nothing_to_fit_from_is_an_error() -> None:
    empty, full = FoldSums(4, 0, np.zeros(WIDTH), 0), FoldSums(4, 1, np.ones(WIDTH), 3)
    with pytest.raises(UserError, match=r"there is no example to fit the vector of layer 4 with"):
        fit_mean_difference([empty], num_folds=1)
    with pytest.raises(UserError, match=r"layer 4 without fold 1 with"):
        fit_mean_difference([empty, full], num_folds=2)


TARGETS = [f"term {n}" for n in range(9) for _ in range(1 + n % 4)]


@pytest.mark.parametrize("num_folds", [2, 3, 5, 9])
def test_folds_keep_terms_together_and_are_balanced(num_folds: int) -> None:
    folds = assign_folds(TARGETS, num_folds, 0, "a group")
    by_term: dict[str, set[int]] = {}
    for target, fold in zip(TARGETS, folds, strict=True):
        by_term.setdefault(target, set()).add(fold)
    assert all(len(f) == 1 for f in by_term.values())
    sizes = Counter(folds)
    assert set(sizes) == set(range(num_folds))
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(TARGETS).values())


def test_terms_are_dealt_largest_first_to_the_emptiest_fold() -> None:
    targets = [*"aaaa", *"bbb", *"cc", "d"]
    folds = dict(zip(targets, assign_folds(targets, 2, 0, "a group"), strict=True))
    assert folds == {"a": 0, "b": 1, "c": 1, "d": 0}


def test_folds_depend_on_the_seed_and_on_nothing_else() -> None:
    targets = [f"term {n}" for n in range(40)]
    folds = assign_folds(targets, 5, 3, "a group")
    assert assign_folds(targets, 5, 3, "another") == folds
    assert assign_folds(targets, 5, 4, "a group") != folds
    # The order of the rows moves the folds with their terms.
    backwards = assign_folds(targets[::-1], 5, 3, "a group")
    assert backwards == folds[::-1]


def test_few_terms_get_a_fold_each_and_a_single_one_is_refused() -> None:
    assert assign_folds(["a", "a"], 1, 0, "a group") == (0, 0)
    for num_folds in (2, 3, 1000):
        folds = assign_folds(["a", "b", "a"], num_folds, 0, "a group")
        assert sorted({folds[0], folds[1]}) == [0, 1]
        assert folds[0] == folds[2]
    assert set(assign_folds([*"abcab"], 5, 0, "a group")) == {0, 1, 2}
    with pytest.raises(UserError) as caught:
        assign_folds(["a", "a"], 3, 0, "intersentence/religion")
    message = str(caught.value)
    assert "there should be 3 folds" in message
    assert "every example of intersentence/religion has the target term 'a'" in message


def fitted(num_folds: int, layers: tuple[int, ...] = (1, 11)) -> SteeringVectors:
    folds = [n % num_folds for n in range(24)]
    sums = [s for la in layers for s in sums_by_task(differences(24, seed=la), folds, la)]
    return fit_mean_difference(sums, num_folds)


@pytest.mark.parametrize("num_folds", [1, 2, 12])
def test_a_file_gives_back_what_was_written(num_folds: int) -> None:
    vectors = fitted(num_folds)
    data = to_safetensors(vectors, {"model": "m"})
    again = from_safetensors(data, "here")
    assert set(again.whole) == set(vectors.whole)
    assert set(again.folds) == set(vectors.folds)
    for layer in vectors.whole:
        np.testing.assert_array_equal(again.whole[layer], vectors.whole[layer])
        for fold in range(num_folds):
            np.testing.assert_array_equal(
                again.for_fold(layer, fold), vectors.for_fold(layer, fold)
            )
        assert again.digest(layer) == vectors.digest(layer)


def test_tensor_names_and_metadata_are_those_of_the_design() -> None:
    vectors = fitted(2)
    data = to_safetensors(vectors, {"model": "google/gemma-2-2b", "protocol": "aligned"})
    names = {f"layer.{la}{end}" for la in (1, 11) for end in ("", ".fold.0", ".fold.1")}
    tensors = load_tensors(data)
    assert set(tensors) == names
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float32)}
    assert safetensors_metadata(data) == {
        "model": "google/gemma-2-2b",
        "protocol": "aligned",
        "digest.layer.1": vectors.digest(1),
        "digest.layer.11": vectors.digest(11),
    }


@pytest.mark.parametrize("name", ["layer.11", "layer.11.fold.1"])
def test_a_changed_tensor_does_not_match_its_digest(name: str) -> None:
    data = to_safetensors(fitted(2), {})
    tensors, metadata = load_tensors(data), safetensors_metadata(data)
    changed = tensors[name].copy()
    changed[-1] = np.nextafter(changed[-1], np.float32(9), dtype=np.float32)
    with pytest.raises(UserError, match=r"here: tensors of layer 11 do not match their digest"):
        from_safetensors(save_tensors({**tensors, name: changed}, metadata=metadata), "here")
    del metadata["digest.layer.11"]
    with pytest.raises(UserError, match="do not match their digest"):
        from_safetensors(save_tensors(tensors, metadata=metadata), "here")


def test_digest_sees_the_folds_and_their_order() -> None:
    vectors = fitted(2)
    whole, (first, second) = vectors.whole[1], vectors.folds[1]
    variants = [
        vectors,
        SteeringVectors({1: whole}, {}),
        SteeringVectors({1: whole}, {1: (second, first)}),
        SteeringVectors({1: first}, {1: (first, second)}),
    ]
    assert len({v.digest(1) for v in variants}) == len(variants)


STREAM_NORMS = {1: 7.0, 11: 1 / 3}


def in_streams(vectors: SteeringVectors) -> SteeringVectors:
    return replace(vectors, unit="stream", stream_norms=STREAM_NORMS, fold_sizes=(20, 4))


def test_a_step_of_unit_stream_is_a_share_of_the_streams_norm() -> None:
    vectors = in_streams(fitted(2))
    for layer, stream_norm in STREAM_NORMS.items():
        for fold in (0, 1):
            vector = vectors.for_fold(layer, fold).astype(np.float64)
            step = vectors.multiplier(layer, fold, -0.1) * vector
            np.testing.assert_allclose(np.linalg.norm(step), 0.1 * stream_norm, rtol=1e-12)
            assert step @ vector < 0
        assert vectors.dose(layer, -0.1) == 0.1
        assert replace(vectors, unit="vector").multiplier(layer, 0, -0.1) == -0.1


def test_a_dose_is_the_mean_over_examples_each_with_the_vector_of_its_own_fold() -> None:
    vectors = replace(in_streams(fitted(2)), unit="vector")
    for layer, stream_norm in STREAM_NORMS.items():
        norms = [np.linalg.norm(vectors.for_fold(layer, fold)) for fold in [0] * 20 + [1] * 4]
        assert vectors.dose(layer, -3.0) == pytest.approx(3 * np.mean(norms) / stream_norm)
    alone = replace(vectors, folds={})
    norm = np.linalg.norm(vectors.whole[1])
    assert alone.dose(1, 2.0) == pytest.approx(2 * norm / STREAM_NORMS[1])
    assert alone.dose(1, 0.0) == 0.0


def test_there_is_no_dose_without_a_measured_stream() -> None:
    assert fitted(2).dose(1, 3.0) is None
    assert replace(fitted(1), stream_norms={11: 1.0}).dose(1, 3.0) is None
    assert replace(fitted(2), stream_norms={1: 1.0}).dose(1, 3.0) is None  # whose vectors?


def test_a_vector_of_zero_steers_nothing_in_any_unit() -> None:
    vectors = SteeringVectors({1: np.zeros(WIDTH, np.float32)}, {}, {1: 5.0}, unit="stream")
    assert vectors.multiplier(1, 0, 0.3) == 0.0
    assert vectors.dose(1, 0.3) == 0.0


def test_a_digest_covers_the_streams_norm_only_where_it_decides_the_step() -> None:
    plain = fitted(2)
    measured = replace(plain, stream_norms=STREAM_NORMS, fold_sizes=(20, 4))
    assert measured.digest(11) == plain.digest(11)
    assert in_streams(plain).digest(11) != plain.digest(11)
    other = {11: float(np.nextafter(STREAM_NORMS[11], 1))}
    assert replace(in_streams(plain), stream_norms=other).digest(11) != in_streams(plain).digest(11)


@pytest.mark.parametrize("unit", ["vector", "stream"])
def test_a_file_keeps_the_norms_of_the_stream_and_the_same_tensors(unit: Unit) -> None:
    plain = fitted(2)
    vectors = replace(in_streams(plain), unit=unit)
    data = to_safetensors(vectors, {})
    assert load_tensors(data).keys() == load_tensors(to_safetensors(plain, {})).keys()
    again = from_safetensors(data, "here")
    assert again.stream_norms == STREAM_NORMS
    assert (again.unit, again.fold_sizes) == (unit, (20, 4))
    assert again.dose(11, 0.7) == vectors.dose(11, 0.7)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("stream_norm.layer.11", "0.5"),
        ("stream_norm.layer.11", None),
        ("unit", None),
        ("unit", "inches"),
    ],
)
def test_a_changed_norm_or_unit_is_refused(key: str, text: str | None) -> None:
    data = to_safetensors(in_streams(fitted(2)), {})
    metadata = {**safetensors_metadata(data), key: text}
    kept = {k: v for k, v in metadata.items() if v is not None}
    with pytest.raises(UserError, match=r"^here: "):
        from_safetensors(save_tensors(load_tensors(data), metadata=kept), "here")


def test_layers_are_taken_out_and_put_together() -> None:
    vectors = in_streams(fitted(2))
    first, second = vectors.of_layers([1]), vectors.of_layers([11])
    assert (set(first.whole), set(first.folds)) == ({1}, {1})
    assert (set(first.stream_norms), first.unit) == ({1}, "stream")
    both = SteeringVectors({}, {}).with_layers_of(first).with_layers_of(second)
    written, wanted = (to_safetensors(each, {}) for each in (both, vectors))
    assert safetensors_metadata(written) == safetensors_metadata(wanted)
    assert load_tensors(written).keys() == load_tensors(wanted).keys()


def test_the_mean_norm_is_over_all_tasks_once_whatever_their_folds() -> None:
    totals = {1: (3.0, 4), 2: (10.0, 1)}

    def task(number: int, num_folds: int) -> list[FoldSums]:
        stream = StreamSums(*totals[number])
        return [FoldSums(5, k, np.ones(WIDTH), 1, stream=stream) for k in range(num_folds)]

    assert mean_stream_norms([task(1, 1), task(2, 1)]) == {5: 13 / 5}
    assert mean_stream_norms([task(1, 3), task(2, 2)]) == {5: 13 / 5}
    unmeasured = [FoldSums(5, 0, np.ones(WIDTH), 1)]
    assert mean_stream_norms([task(1, 1), unmeasured]) == {}
    infinite = [FoldSums(5, 0, np.ones(WIDTH), 1, stream=StreamSums(np.inf, 3))]
    assert mean_stream_norms([infinite]) == {}


def header_only(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


VECTOR = np.ones(WIDTH, np.float32)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors at all",
        to_safetensors(fitted(1), {})[:-4],
        header_only([]),
        save_tensors({"weight.bias": VECTOR}),
        save_tensors({"layer.x": VECTOR}),
        save_tensors({"layer.1": VECTOR, "layer.1.fold.3": VECTOR}),
    ],
    ids=["empty", "text", "truncated", "a list", "other names", "no number", "no fold 0"],
)
def test_a_file_that_is_not_one_of_vectors_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^s3://b/k: not a file of steering vectors"):
        from_safetensors(data, "s3://b/k")
