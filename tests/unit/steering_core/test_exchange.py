"""Vectors to other tools' files and back: bit for bit, and each layer where it belongs."""

from __future__ import annotations

import io
import json
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_tensors

from steering_core.exchange.formats import FORMATS, Format, read_vectors, write_vectors
from steering_core.exchange.vector_file import VectorFile, read_at
from steering_core.vectors import SteeringVectors, safetensors_metadata, to_safetensors
from steersweep.errors import UserError

WIDTH = 6
NUM_BLOCKS = 5
PROVENANCE = {"model": "tiny", "num_blocks": str(NUM_BLOCKS), "model_type": "llama"}


def vectors_of(*layers: int, folds: int = 0) -> SteeringVectors:
    rng = np.random.default_rng(0)

    def vector() -> np.ndarray:
        drawn: np.ndarray = rng.normal(size=WIDTH).astype(np.float32)
        return drawn

    whole = {layer: vector() for layer in layers}
    return SteeringVectors(
        whole, {layer: tuple(vector() for _ in range(folds)) for layer in layers if folds}
    )


def file_of(*layers: int, folds: int = 0, **provenance: str) -> VectorFile:
    return VectorFile(vectors_of(*layers, folds=folds), {**PROVENANCE, **provenance})


def odd_bits() -> VectorFile:
    """Values that a conversion by way of text or another dtype would change."""
    whole = {
        2: np.array([-0.0, 1e-45, -1e-38, 3.4028235e38, 0.1, 1 / 3], np.float32),
        3: np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.0], np.float32),
    }
    return VectorFile(SteeringVectors(whole, {}), PROVENANCE)


def bits(vectors: SteeringVectors) -> dict[int, bytes]:
    assert all(v.dtype == np.float32 for v in vectors.whole.values())
    return {layer: vector.tobytes() for layer, vector in vectors.whole.items()}


def saved(value: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("file", [file_of(1, 2, 3, 4, 5), file_of(2, 5), odd_bits()], ids=str)
def test_a_round_trip_changes_no_bit(kind: Format, file: VectorFile) -> None:
    written = write_vectors(kind, file)
    found_kind, found = read_vectors(written.data, "x")
    assert found_kind == kind
    assert bits(found.vectors) == bits(file.vectors)
    assert found.layers == file.layers
    # And once more, from the foreign file on.
    _, again = read_vectors(write_vectors(kind, found, num_blocks=NUM_BLOCKS).data, "x")
    assert bits(again.vectors) == bits(file.vectors)
    if kind in ("safetensors", "repeng"):
        assert found.provenance.items() >= file.provenance.items()


def test_every_tool_gets_a_layer_under_its_own_number() -> None:
    file = file_of(1, 4)
    persona = torch.load(io.BytesIO(write_vectors("persona_vectors", file).data), weights_only=True)
    assert persona.shape == (NUM_BLOCKS + 1, WIDTH)
    assert persona.dtype == torch.float32
    library = torch.load(
        io.BytesIO(write_vectors("steering_vectors", file).data), weights_only=True
    )
    assert library["layer_type"] == "decoder_block"
    assert list(library["layer_activations"]) == [0, 3]
    directions = gguf_tensors(write_vectors("repeng", file).data)
    assert list(directions) == ["direction.0", "direction.3"]
    for layer in (1, 4):
        vector = file.vectors.whole[layer]
        np.testing.assert_array_equal(persona[layer].numpy(), vector)
        np.testing.assert_array_equal(library["layer_activations"][layer - 1].numpy(), vector)
        np.testing.assert_array_equal(directions[f"direction.{layer - 1}"], vector)
    assert not persona[[0, 2, 3, 5]].any()


def gguf_tensors(data: bytes) -> dict[str, np.ndarray]:
    with open_gguf(data) as reader:
        return {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


class open_gguf:
    def __init__(self, data: bytes) -> None:
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "x.gguf"
        self._path.write_bytes(data)

    def __enter__(self) -> gguf.GGUFReader:
        return gguf.GGUFReader(self._path)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def test_a_control_vector_has_the_keys_that_repeng_reads() -> None:
    with open_gguf(write_vectors("repeng", file_of(2, 3), model_type="gemma2").data) as reader:
        fields = {
            key: bytes(reader.get_field(key).parts[-1])
            for key in ("general.architecture", "controlvector.model_hint")
        }
        count = reader.get_field("controlvector.layer_count").parts[-1]
    assert fields == {
        "general.architecture": b"controlvector",
        "controlvector.model_hint": b"gemma2",
    }
    assert list(count) == [2]


def test_our_own_file_is_recognized_whatever_the_length_of_its_header() -> None:
    """A header of 1,152 bytes begins with the byte that a pickle begins with."""
    first_bytes = set()
    for length in range(256):
        data = write_vectors("safetensors", file_of(1, note="y" * length)).data
        first_bytes.add(data[0])
        assert read_vectors(data, "x")[0] == "safetensors"
    assert 0x80 in first_bytes


# Files as the other tools write them.


def test_a_persona_vectors_file_is_taken_over_row_by_row() -> None:
    rows = torch.randn(NUM_BLOCKS + 1, WIDTH)
    kind, file = read_vectors(saved(rows), "evil.pt")
    assert kind == "persona_vectors"
    assert file.layers == (1, 2, 3, 4, 5)
    assert file.embeddings is not None
    for layer in file.layers:
        np.testing.assert_array_equal(file.vectors.whole[layer], rows[layer].numpy())
    np.testing.assert_array_equal(file.embeddings, rows[0].numpy())
    assert file.provenance["read.layer.1"] == "blocks.0.resid_post"
    assert file.provenance["read.layer.5"] == "blocks.4.resid_post behind the final norm"
    assert len(file.provenance["imported_sha256"]) == 64
    # Ours, and back, with the row before the first block.
    _, ours = read_vectors(write_vectors("safetensors", file).data, "x")
    back = torch.load(io.BytesIO(write_vectors("persona_vectors", ours).data), weights_only=True)
    assert back.numpy().tobytes() == rows.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_exactly(dtype: torch.dtype) -> None:
    rows = torch.randn(3, WIDTH).to(dtype)
    _, file = read_vectors(saved(rows), "x")
    assert torch.equal(torch.from_numpy(file.vectors.whole[2]).to(dtype), rows[2])


def test_rows_of_zeros_are_layers_without_a_vector() -> None:
    rows = torch.zeros(4, WIDTH)
    rows[2] = 1
    _, file = read_vectors(saved(rows), "x")
    assert file.layers == (2,)
    assert file.embeddings is None
    written = write_vectors("persona_vectors", file)
    assert written.notes == ("rows of zeros for layers without a vector: [1, 3]",)
    assert torch.equal(torch.load(io.BytesIO(written.data), weights_only=True), rows)


def control_vector(
    folder: Path, tensors: dict[str, np.ndarray], arch: str = "controlvector"
) -> bytes:
    """As repeng's export_gguf writes it."""
    path = folder / "x.gguf"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_repeng_file_is_taken_over_block_by_block(tmp_path: Path) -> None:
    # repeng trains the last block first.
    tensors = {
        f"direction.{i}": np.full(WIDTH, i, np.float32 if i > 1 else np.float16) for i in (3, 2, 1)
    }
    kind, file = read_vectors(control_vector(tmp_path, tensors), "x.gguf")
    assert kind == "repeng"
    assert file.layers == (2, 3, 4)
    assert list(file.vectors.whole) == [2, 3, 4]
    for layer in file.layers:
        np.testing.assert_array_equal(
            file.vectors.whole[layer], np.full(WIDTH, layer - 1, np.float32)
        )
    assert file.provenance["model_type"] == "mistral"
    assert file.provenance["read.layer.2"] == "blocks.1.resid_post"


@dataclass
class SteeringVector:
    """The library's class, as far as it is saved."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


SteeringVector.__module__ = "steering_vectors.steering_vector"
SteeringVector.__qualname__ = "SteeringVector"


@pytest.fixture
def library_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is not installed: a module of its name, for as long as it is pickled."""
    import sys
    import types

    package, module = types.ModuleType("steering_vectors"), types.ModuleType("steering_vector")
    module.SteeringVector = SteeringVector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "steering_vectors", package)
    monkeypatch.setitem(sys.modules, "steering_vectors.steering_vector", module)


@pytest.mark.usefixtures("library_class")
def test_a_saved_object_of_the_library_is_taken_over_without_the_library() -> None:
    activations = {0: torch.randn(WIDTH), 3: torch.randn(1, WIDTH)}
    kind, file = read_vectors(saved(SteeringVector(activations)), "x.pt")
    assert kind == "steering_vectors"
    assert file.layers == (1, 4)
    np.testing.assert_array_equal(file.vectors.whole[4], activations[3][0].numpy())
    with pytest.raises(UserError, match="layer_type 'mlp'; only decoder_block"):
        read_vectors(saved(SteeringVector(activations, "mlp")), "x.pt")


def test_the_arguments_of_the_librarys_class_make_the_vector() -> None:
    data = write_vectors("steering_vectors", file_of(2)).data
    made = SteeringVector(**torch.load(io.BytesIO(data), weights_only=True))
    np.testing.assert_array_equal(
        made.layer_activations[1].numpy(), file_of(2).vectors.whole[2]
    )  # fmt: skip


# Folds, and what a format cannot hold.


def test_folds_stay_in_our_own_format_and_can_be_taken_out() -> None:
    file = file_of(1, 2, folds=3)
    _, found = read_vectors(write_vectors("safetensors", file).data, "x")
    assert found.num_folds == 3
    for layer in (1, 2):
        for one, other in zip(
            found.vectors.folds[layer], file.vectors.folds[layer], strict=True
        ):  # fmt: skip
            assert one.tobytes() == other.tobytes()
    notes = write_vectors("repeng", file).notes
    assert "vectors of single folds are left out (3 folds)" in notes
    fold = file.of_fold(2)
    assert fold.num_folds == 0
    assert fold.provenance["fold"] == "2"
    np.testing.assert_array_equal(fold.vectors.whole[1], file.vectors.folds[1][2])
    with pytest.raises(UserError, match=r"no fold 3; the file has folds 0\.\.2"):
        file.of_fold(3)
    with pytest.raises(UserError, match="no fold 0; the file has no folds"):
        fold.of_fold(0)


def test_what_is_lost_is_said() -> None:
    _, file = read_vectors(saved(torch.randn(3, WIDTH)), "x")
    notes = write_vectors("repeng", file).notes
    assert "llama.cpp refuses direction.0 (layer 1); leave layer 1 out for it" in notes
    assert "the model's type is not known; give it for tools that look at it" in notes
    assert "repeng has no place for the row before the first block" in notes
    assert write_vectors("repeng", file_of(2)).notes == ()


def test_some_layers_can_be_taken() -> None:
    file = file_of(1, 2, 3, **read_at((1, 2, 3)))
    some = file.of_layers((3, 1))
    assert some.layers == (1, 3)
    assert {k for k in some.provenance if k.startswith("read.")} == {"read.layer.1", "read.layer.3"}
    with pytest.raises(UserError, match="no layer 4; the file has 1, 2, 3"):
        file.of_layers((4,))


@pytest.mark.parametrize("kind", ["persona_vectors", "repeng", "steering_vectors"])
@pytest.mark.parametrize("point", ["blocks.1.resid_pre", "blocks.1.mlp_out", "blocks.2.resid_post"])
def test_vectors_from_another_place_are_not_given_a_number_that_means_this_one(
    kind: Format, point: str
) -> None:
    file = file_of(2, **{"read.layer.2": point})
    with pytest.raises(UserError, match=f"layer 2 was read at {point}, and "):
        write_vectors(kind, file)
    assert write_vectors("safetensors", file)


def test_persona_vectors_needs_the_number_of_blocks() -> None:
    file = VectorFile(vectors_of(2, 4), {})
    with pytest.raises(UserError, match="give the model's number of blocks"):
        write_vectors("persona_vectors", file)
    with pytest.raises(UserError, match=r"layer 4 is not in 1\.\.3"):
        write_vectors("persona_vectors", file, num_blocks=3)
    data = write_vectors("persona_vectors", file, num_blocks=4).data
    assert torch.load(io.BytesIO(data), weights_only=True).shape == (5, WIDTH)


# Files that are none.


class Harm:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self._path, "harm"))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for data in (saved(Harm(harm)), pickle.dumps(Harm(harm)), saved({"a": Harm(harm)})):
        with pytest.raises(UserError, match="because loading them runs their code"):
            read_vectors(data, "x.pt")
    assert not harm.exists()


def bad_files(folder: Path) -> dict[str, bytes]:
    good = saved(torch.ones(3, WIDTH))
    vector = {"direction.1": np.ones(WIDTH, np.float32)}
    control = control_vector(folder, vector)
    nan = torch.ones(3, WIDTH)
    nan[1, 2] = torch.nan
    half = np.ones(64, np.float32)
    return {
        "empty": b"",
        "text": b"hello",
        "half a pt": good[: len(good) // 2],
        "half a gguf": control[: len(control) - 24],
        "a gguf's head": control[:40],
        "a gguf that counts too far": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
        "no rows": saved(torch.ones(1, WIDTH)),
        "one row": saved(torch.ones(WIDTH)),
        "integers": saved(torch.ones(3, WIDTH, dtype=torch.int64)),
        "doubles": saved(torch.ones(3, WIDTH, dtype=torch.float64)),
        "zeros": saved(torch.zeros(3, WIDTH)),
        "nan": saved(nan),
        "a list": saved([torch.ones(3)]),
        "no activations": saved({"layer_activations": {}}),
        "a negative block": saved({"layer_activations": {-1: torch.ones(3)}}),
        "a matrix": saved({"layer_activations": {1: torch.ones(3, 3)}}),
        "two widths": saved({"layer_activations": {1: torch.ones(3), 2: torch.ones(4)}}),
        "a model": control_vector(folder, vector, arch="llama"),
        "no directions": control_vector(folder, {"other.1": np.ones(3, np.float32)}),
        "a matrix of directions": control_vector(folder, {"direction.1": half.reshape(8, 8)}),
        "integers in gguf": control_vector(folder, {"direction.1": np.ones(3, np.int32)}),
        "safetensors of others": save_tensors({"weight": half}),
        "damaged safetensors": damaged(to_safetensors(vectors_of(1), {})),
    }


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    for name, data in files.items():
        with pytest.raises(UserError) as caught:
            read_vectors(data, "the/file")
        assert str(caught.value).startswith("the/file"), name
        assert "\n" not in str(caught.value), name


def test_a_damaged_row_before_the_first_block_is_found() -> None:
    _, file = read_vectors(saved(torch.ones(3, WIDTH)), "x")
    data = write_vectors("safetensors", file).data
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    at = 8 + size + header["embeddings"]["data_offsets"][0]
    with pytest.raises(UserError, match="embeddings does not match its digest"):
        read_vectors(data[:at] + b"\x01" + data[at + 1 :], "x")
    assert "digest.embeddings" in safetensors_metadata(data)
