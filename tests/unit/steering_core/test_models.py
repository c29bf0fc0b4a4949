"""Loading models and tokenizers, and naming exactly which ones were loaded."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from steering_core import hub, models, xla
from steering_core.models import (
    ModelSource,
    load_config,
    load_model,
    load_tokenizer,
    read_facts,
    resolve_device,
    resolve_dtype,
)
from steering_core.sampling import eos_ids_of
from steersweep.errors import UserError
from tests.support.golden import model_path
from tests.support.tiny_models import save_model, train_tokenizer

TEXT = "An example,  with two blanks, 12345 and Umlaute: äöü."


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    return save_model(folder, "llama", train_tokenizer([TEXT] * 3, 320))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def facts(folder: Path) -> models.ModelFacts:
    source = ModelSource(str(folder))
    return read_facts(source, load_tokenizer(source))


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes a key out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def set_devices(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in present)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in present)
    monkeypatch.setattr(xla, "is_installed", lambda: "xla" in present)
    monkeypatch.setattr(xla, "has_accelerator", lambda: "xla" in present)
    # torch has a name for XLA devices even where torch_xla is not installed.
    fake = SimpleNamespace(device=lambda: torch.device("xla", 0))
    monkeypatch.setitem(sys.modules, "torch_xla", fake)


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (("cuda", "xla", "mps"), "cuda"),
        (("xla", "mps"), "xla"),
        (("mps",), "mps"),
        ((), "cpu"),
    ],
)
def test_auto_takes_cuda_then_xla_then_mps_then_cpu(
    present: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_devices(monkeypatch, *present)
    assert resolve_device("auto").type == chosen
    assert resolve_device().type == chosen
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "xla", "mps"])
def test_a_device_asked_for_by_name_is_never_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_devices(monkeypatch)
    with pytest.raises(UserError, match=f"device {name} is not available; available here: cpu"):
        resolve_device(name)
    set_devices(monkeypatch, name)
    assert resolve_device(name).type == name


@pytest.mark.parametrize("name", ["gpu", "cuda:0", "CPU", ""])
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="auto, cuda, xla, mps, cpu, got"):
        resolve_device(name)


def test_dtype_auto_is_float32_on_the_cpu_and_bfloat16_elsewhere() -> None:
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    for name in ("cuda", "mps", "xla"):
        assert resolve_dtype("auto", torch.device(name)) == torch.bfloat16
        assert resolve_dtype("float32", torch.device(name)) == torch.float32
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(UserError, match="auto or one of float32, bfloat16, float16, got 'int8'"):
        resolve_dtype("int8", torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_loaded_model_is_frozen_in_evaluation_mode_and_in_its_dtype(
    llama: Path, dtype: str
) -> None:
    model = load_model(ModelSource(str(llama)), device="cpu", dtype=dtype)
    wanted = torch.float32 if dtype == "auto" else torch.bfloat16
    assert model.dtype == wanted
    assert model.device.type == "cpu"
    assert model.name == str(llama)
    assert model.layout.num_blocks == 4
    assert not model.module.training
    for parameter in model.module.parameters():
        assert parameter.dtype == wanted
        assert not parameter.requires_grad
    stored = load_file(llama / "model.safetensors")["model.norm.weight"]
    torch.testing.assert_close(model.layout.final[0].weight.float(), stored)


@pytest.mark.parametrize("model", ["gemma2-tiny", "llama-tiny"])
def test_a_model_that_caps_attention_runs_eagerly(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDPA ignores the cap in silence; it is asked for, since the default has changed before."""
    asked: list[Any] = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options["attn_implementation"])
        return load(*args, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spy)
    loaded = load_model(ModelSource(str(model_path(model))), device="cpu")
    caps = model == "gemma2-tiny"
    assert asked == ["eager" if caps else None]
    assert (loaded.layout.config._attn_implementation == "eager") == caps


def test_facts_are_those_of_the_config(llama: Path) -> None:
    found = facts(llama)
    assert (found.num_blocks, found.width, found.max_tokens) == (4, 64, 512)
    assert found.vocab_size == json.loads((llama / "config.json").read_text())["vocab_size"]
    assert found.num_params > 0


def test_a_folder_without_config_is_not_a_model_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    source = ModelSource(str(folder))
    for use in (lambda: load_model(source, device="cpu"), lambda: read_facts(source, None)):
        with pytest.raises(UserError, match=r"is not a model folder: it has no config\.json"):
            use()


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no usable tokenizer in .*copy"):
        load_tokenizer(ModelSource(str(folder)))


def test_a_folder_without_safetensors_is_refused_even_with_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \*\.safetensors weights"):
        facts(folder)
    with pytest.raises(UserError, match=r"cannot load .*copy"):
        load_model(ModelSource(str(folder)), device="cpu")


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_config_that_does_not_say_its_shape_is_refused(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 9}
    del shape[key]
    monkeypatch.setattr(models, "load_config", lambda _source: SimpleNamespace(**shape))
    with pytest.raises(UserError, match="only decoder language models can be steered"):
        read_facts(ModelSource(str(folder)), None)


def test_a_model_that_is_not_cached_is_refused_in_one_line_when_offline() -> None:
    source = ModelSource("no-such/model-anywhere")
    assert not source.is_local
    for load in (load_model, load_tokenizer):
        with pytest.raises(
            UserError, match=r"no model at 'no-such/model-anywhere'.*OFFLINE is set"
        ):
            load(source)


@pytest.mark.parametrize("path", ["/no/such/folder", "./no-such-folder", "../no/such"])
def test_a_path_is_never_tried_as_a_hub_id(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_offline", lambda: pytest.fail("the hub was asked"))
    source = ModelSource(path)
    assert source.is_local
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=rf"the folder {path} does not exist"):
            load(source)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub may be asked, as far as the environment goes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub._answers.cache_clear()
    yield
    hub._answers.cache_clear()


def test_a_hub_that_does_not_answer_is_asked_once_and_named(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:  # takes connections and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(30)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr(hub, "PROBE_S", 0.2)
        for load in (load_tokenizer, load_config, load_model):
            with pytest.raises(UserError, match=f"'lab/model'.*{endpoint} cannot be reached"):
                load(ModelSource("lab/model"))
        silent.accept()[0].close()
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent.accept()


@pytest.mark.parametrize(("status", "is_offline"), [(200, False), (401, False), (502, True)])
def test_a_hub_that_answers_is_used(
    online: None, monkeypatch: pytest.MonkeyPatch, status: int, is_offline: bool
) -> None:
    """A gateway that has no way to the hub is not the hub."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        assert hub.is_offline() is is_offline
        assert ModelSource("lab/model").hub_options()["local_files_only"] is is_offline
    finally:
        server.shutdown()
        server.server_close()


def test_revision_goes_to_the_hub_only(llama: Path) -> None:
    assert ModelSource("a/b", "v1", True).hub_options() == {
        "trust_remote_code": True,
        "revision": "v1",
        "local_files_only": True,
    }
    assert ModelSource(str(llama), "v1").hub_options() == {"trust_remote_code": False}


@pytest.mark.parametrize(
    ("tokenizer_class", "model_type"),
    [
        ("LlamaTokenizer", "llama"),
        ("Qwen2Tokenizer", "llama"),
        ("TokenizersBackend", "qwen2"),
        (None, "gemma2"),
    ],
)
def test_tokenizer_json_is_loaded_as_it_stands(
    folder: Path, tokenizer_class: str | None, model_type: str
) -> None:
    """``AutoTokenizer`` brings the pre-tokenizer of the class or of the model type instead."""
    tokenizer = train_tokenizer([TEXT] * 3, 320)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.save_pretrained(folder)
    change_json(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    change_json(folder / "config.json", model_type=model_type)
    written = json.loads((folder / "tokenizer.json").read_text())

    loaded = load_tokenizer(ModelSource(str(folder)))
    body: dict[str, Any] = json.loads(loaded.backend_tokenizer.to_str())
    for part in ("pre_tokenizer", "normalizer", "model", "decoder", "post_processor"):
        assert body[part] == written[part], part
    assert loaded([TEXT])["input_ids"] == tokenizer([TEXT])["input_ids"]


def test_rows_are_padded_on_the_right_whatever_the_file_says(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", padding_side="left")
    assert load_tokenizer(ModelSource(str(folder))).padding_side == "right"


def test_digest_is_of_content_and_not_of_place_or_file_times(llama: Path, folder: Path) -> None:
    before = facts(llama)
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    (folder / "README.md").write_text("A note beside the weights.")
    assert facts(folder) == before


def test_digest_changes_with_a_weight_and_with_the_config(folder: Path) -> None:
    before = facts(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = facts(folder)
    assert changed.digest != before.digest
    assert changed.tokenizer_digest == before.tokenizer_digest

    change_json(folder / "config.json", rms_norm_eps=1e-3)
    assert facts(folder).digest not in (before.digest, changed.digest)


def test_digest_sees_every_shard_and_its_name(folder: Path) -> None:
    digests = [facts(folder).digest]
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")
    digests.append(facts(folder).digest)
    (folder / "more.safetensors").rename(folder / "other.safetensors")
    digests.append(facts(folder).digest)
    assert len(set(digests)) == 3


def test_tokenizer_digest_sees_merges_post_processor_and_special_tokens() -> None:
    variants = [
        train_tokenizer([TEXT] * 3, 320),
        train_tokenizer([TEXT] * 3, 265),
        train_tokenizer([TEXT] * 3, 320, has_bos=False),
        train_tokenizer([TEXT] * 3, 320, has_pad=False),
    ]
    digests = [models._tokenizer_digest(t) for t in variants]
    assert len(set(digests)) == len(digests)
    assert models._tokenizer_digest(train_tokenizer([TEXT] * 3, 320)) == digests[0]


def test_weights_in_their_stored_dtype_stay_pages_of_the_file(llama: Path) -> None:
    """So that the replicas of a node share them; another dtype is a copy of each replica's own."""

    def is_in_file(dtype: str) -> bool:
        module = load_model(ModelSource(str(llama)), device="cpu", dtype=dtype).module
        at = module.get_output_embeddings().weight.data_ptr()  # type: ignore[operator]
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [(line[0].split("-"), line[-1]) for line in lines]
        name = next(name for (a, b), name in spans if int(a, 16) <= at < int(b, 16))
        return name == str(llama / "model.safetensors")

    assert is_in_file("float32")
    assert not is_in_file("bfloat16")


def test_a_share_of_a_gpu_is_all_that_a_process_takes(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * 2**30)
    )
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    models._keep_to_share(0.25)
    assert fractions == [0.25 - 0.75 / 24]
    # Four processes and what CUDA takes for each are the whole GPU.
    assert 4 * (fractions[0] * 24 + 0.75) == 24
    with pytest.raises(UserError, match=r"0\.03 of a GPU of 24\.0 GiB is less than the 0\.75 GiB"):
        models._keep_to_share(0.03)
    load_model(ModelSource(str(llama)), device="cpu", gpu_share=0.25)
    assert len(fractions) == 1, "there is no GPU to share"


class Machine:
    """A machine with GPUs that are not there: where a model would be loaded to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, num_gpus: int, free_bytes: int) -> None:
        self.loaded: list[Any] = []
        found = {
            "is_available": lambda: True,
            "device_count": lambda: num_gpus,
            "mem_get_info": lambda: (free_bytes, 2 * free_bytes),
        }
        for name, answer in found.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(models, "pin_device_settings", lambda _device: None)
        monkeypatch.setattr(torch.nn.Module, "to", lambda module, _device: module)
        own = transformers.AutoModelForCausalLM.from_pretrained

        def from_pretrained(*args: Any, **options: Any) -> Any:
            self.loaded.append(options.pop("device_map", None))
            return own(*args, **options)

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)


@pytest.mark.parametrize(
    ("num_gpus", "gpu_share", "free_share", "device_map"),
    [
        (8, 1.0, 2.0, None),  # fits one of eight
        (8, 1.0, 1.1, "auto"),  # leaves no room for batches
        (8, 2.0, 2.0, "auto"),  # asked for
        (1, 1.0, 1.1, None),  # there is no other
    ],
)
def test_only_a_model_that_one_gpu_does_not_hold_is_spread(
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    gpu_share: float,
    free_share: float,
    device_map: str | None,
) -> None:
    weights = load_file(llama / "model.safetensors")
    num_bytes = 2 * sum(weight.numel() for weight in weights.values())
    machine = Machine(monkeypatch, num_gpus=num_gpus, free_bytes=int(free_share * num_bytes))
    model = load_model(
        ModelSource(str(llama)), device="cuda", dtype="bfloat16", gpu_share=gpu_share
    )
    assert model.device == torch.device("cuda")
    assert machine.loaded == [device_map]


def test_a_model_that_does_not_fit_its_gpus_is_refused() -> None:
    models.check_all_placed({}, "m")
    models.check_all_placed({"model.embed": 0, "model.layers.0": 1}, "m")
    with pytest.raises(
        UserError, match=r"m does not fit the 2 GPUs of a replica: 2 of its 4 parts"
    ):
        models.check_all_placed({"a": 0, "b": 1, "c": "cpu", "d": "disk"}, "m")


def test_code_of_a_trusted_folder_is_digested(folder: Path) -> None:
    trusted = ModelSource(str(folder), trust_remote_code=True)

    def code() -> str | None:
        return read_facts(trusted, load_tokenizer(trusted)).code_digest

    (folder / "mine.py").write_text("A = 1\n")
    assert code() is None, "no config names the file, so it is never run"
    # The config's own class stays the registered one: the digest is what is looked at.
    change_json(folder / "tokenizer_config.json", auto_map={"AutoProcessor": "mine.A"})
    first = code()
    assert first is not None
    assert facts(folder).code_digest is None, "not trusted, so it is never run"
    (folder / "parts").mkdir()
    (folder / "parts" / "more.py").write_text("B = 1\n")
    second = code()
    (folder / "parts" / "more.py").write_text("B = 2\n")
    assert len({first, second, code()}) == 3


@pytest.mark.parametrize("named", [None, 5, [5, 7], "no file"])
def test_tokens_that_end_answers_are_known_before_the_model_is_loaded(
    named: Any, folder: Path
) -> None:
    file = folder / "generation_config.json"
    if named == "no file":
        file.unlink()
    else:
        change_json(file, eos_token_id=named)
    source = ModelSource(str(folder))
    tokenizer = load_tokenizer(source)
    loaded = load_model(source, device="cpu")
    found = models.read_eos_ids(source, tokenizer)
    assert found == eos_ids_of(loaded.module, tokenizer)
    assert set(found) >= {tokenizer.eos_token_id, *({5, 7} if named == [5, 7] else ())}


def test_a_generation_config_that_cannot_be_used_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[1]")
    source = ModelSource(str(folder))
    with pytest.raises(UserError, match=r"generation_config\.json cannot be used"):
        models.read_eos_ids(source, load_tokenizer(source))
