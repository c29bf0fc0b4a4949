"""Vectors that one job has fitted, or another tool, steer in the persona job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from steering_core.exchange.formats import read_vectors, write_vectors
from steering_core.generation import GenerationRow
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import ModelSource, load_model, load_tokenizer
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling, eos_ids_of
from steering_core.vectors import SteeringVectors, to_safetensors
from tests.e2e.test_persona import rows_of
from tests.support.golden import model_path
from tests.support.personas import QUESTIONS, write_persona_spec
from tests.support.sweeps import steersweep, write_spec
from tests.support.traits import write_trait


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a StereoSet sweep of one group has fitted, in persona_vectors' format."""
    folder = tmp_path_factory.mktemp("fitted")
    spec = write_spec(
        folder / "sweep.yaml",
        protocol="aligned",
        vectors={"folds": 1},
        data={"path": "embedded:examples.json", "splits": ["intersentence"],
              "bias_types": ["gender"]},
        steering={"layers": [1, 2, 3, 4], "coeffs": [20]},
    )  # fmt: skip
    assert steersweep("run", str(spec)).code == 0
    (own,) = (folder / "out" / "vectors" / "tiny").rglob("*.safetensors")
    _, file = read_vectors(own.read_bytes(), str(own))
    path = folder / "vectors.pt"
    path.write_bytes(write_vectors("persona_vectors", file, num_blocks=5).data)
    return path


def traits(folder: Path, vectors: Path) -> dict[str, dict[str, str]]:
    """One trait with vectors of its own, one without."""
    of = {"questions": QUESTIONS, "eval_prompt": "Q: {question} A: {answer}"}
    return {
        "given": {"path": str(write_trait(folder, "given.json", **of)), "vectors": str(vectors)},
        "kind": {"path": str(write_trait(folder, "kind.json", **of))},
    }


def test_a_vector_of_the_other_job_steers_and_nothing_is_contrasted_for_it(
    fitted: Path, tmp_path: Path
) -> None:
    model = model_path("gemma2-tiny")
    spec = write_persona_spec(
        tmp_path,
        model,
        traits=traits(tmp_path, fitted),
        generation={"max_new_tokens": 8, "greedy": True, "system": "merge_into_user"},
        filter={"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0},
        steering={"layers": [2], "coeffs": [0, 40], "questions": 2},
    )
    done = steersweep("run", str(spec))
    assert done.code == 0, done
    output = tmp_path / "out"
    assert set(rows_of(output, "answers", "contrast")["trait"]) == {"kind"}
    given = np.asarray(read_vectors(fitted.read_bytes(), "x")[1].vectors.whole[2])
    stored = load_file(output / "vectors/chat/given.file.safetensors")
    np.testing.assert_array_equal(stored["layer.2"], given)

    source = ModelSource(str(model))
    loaded, tokenizer = load_model(source, device="cpu"), load_tokenizer(source)
    sampling = Sampling(max_new_tokens=8, eos_ids=eos_ids_of(loaded.module, tokenizer), greedy=True)
    rows = rows_of(output, "answers", "steered").query("trait == 'given'")
    assert len(rows) == 2 * 2
    for row in rows.itertuples():
        steering = Intervention(HookPoint(1, "resid_post"), given, row.coeff) if row.coeff else None
        wanted = reference_generate(
            loaded,
            GenerationRow(tuple(row.prompt_ids), seed=0, steering=steering, positions="response"),
            sampling,
        )
        assert tuple(row.answer_ids) == tuple(wanted.token_ids)
    projected = rows_of(output, "projections", "steered")
    assert set(projected["vector"]) == {"given", "kind"}
    assert set(projected.query("vector == 'given'")["pooling"]) == {"file"}
    assert "given" in (output / "report.html").read_text()


def test_traits_of_given_vectors_alone_need_no_contrast_at_all(
    fitted: Path, tmp_path: Path
) -> None:
    of = {"given": traits(tmp_path, fitted)["given"]}
    steering = {"layers": [2], "coeffs": [40], "questions": 1}
    spec = write_persona_spec(tmp_path, model_path("gemma2-tiny"), traits=of, steering=steering)
    done = steersweep("run", str(spec))
    assert done.code == 0, done
    assert not list((tmp_path / "out").glob("answers/**/phase=contrast/*"))
    assert steersweep("report", str(tmp_path / "out")).code == 0
    status = steersweep("status", str(tmp_path / "out"))
    assert "given" in status.out


@pytest.mark.parametrize(
    ("width", "layers", "says"),
    [(3, [2], "have width 3, but models.chat has width 64"), (64, [1], "has no vector of layer 2")],
)
def test_vectors_that_do_not_fit_are_refused_before_anything(
    width: int, layers: list[int], says: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.safetensors"
    ones = {n: np.ones(width, np.float32) for n in layers}
    wrong.write_bytes(to_safetensors(SteeringVectors(ones, {}), {}))
    spec = write_persona_spec(
        tmp_path,
        model_path("gemma2-tiny"),
        traits={"given": traits(tmp_path, wrong)["given"]},
        steering={"layers": [2]},
    )
    refused = steersweep("run", str(spec))
    assert refused.code == 2
    assert "traits.given.vectors" in refused.err
    assert says in " ".join(refused.err.split())
    assert not (tmp_path / "out").exists()
