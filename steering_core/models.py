"""Loading Hugging Face models and tokenizers, and naming exactly which ones were loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from steering_core import hub, xla
from steering_core.device_settings import pin_device_settings
from steering_core.gguf import dequantized_folder, gguf_digest
from steering_core.layout import ModelLayout, find_layout, text_config
from steering_core.sampling import named_eos_ids
from steersweep.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cuda", "xla", "mps", "cpu")
CUDA_CONTEXT_BYTES = 768 * 2**20
"""Set aside for what CUDA and its libraries take of a GPU for one process, beside tensors."""
_MOST_OF_A_GPU = 0.7
"""Of a GPU's free memory, what weights may take; batches need the rest."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: a hub id (with an optional revision) or a local folder.

    Attributes:
        gguf_file: the model is this file there, which is dequantized when the model is first used.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    gguf_file: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the path is a folder; one that can be nothing else is never a hub id."""
        return self.path.startswith(("/", ".", "~")) or Path(self.path).exists()

    def hub_options(self) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``."""
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.is_local:
            return options
        return options | {"revision": self.revision, "local_files_only": hub.is_offline()}

    def opened(self) -> ModelSource:
        """The source that ``from_pretrained`` can load: of a GGUF file, its dequantized folder.

        Raises:
            UserError: no such folder, or nothing of the model in the hub's cache while the hub
                cannot be asked; of a GGUF file, as ``dequantized_folder``.
        """
        self._check_is_there()
        if self.gguf_file is None:
            return self
        return ModelSource(str(dequantized_folder(self.gguf_path())))

    def gguf_path(self) -> Path:
        """Where the GGUF file lies on this machine, once it is downloaded.

        Raises:
            UserError: the hub has no such file.
        """
        assert self.gguf_file is not None
        if self.is_local:
            return Path(self.path) / self.gguf_file
        from transformers.utils import cached_file

        options = self.hub_options()
        try:
            return Path(cached_file(self.path, self.gguf_file, **options))
        except Exception as error:  # transformers raises many types here
            _refuse_gated(self, error)
            raise UserError(f"no {self.gguf_file} in {self.path}: {_first_line(error)}") from error

    def _check_is_there(self) -> None:
        if self.is_local:
            self._check_folder(Path(self.path))
            return
        file = self.gguf_file or "config.json"
        if hub.is_offline() and not hub.has_cached(self.path, file, self.revision):
            raise UserError(
                f"no model at {self.path!r}: it is not a folder here and not in the hub's cache, "
                f"and {hub.why_offline()}; give a local folder, or download the model first"
            )

    def _check_folder(self, path: Path) -> None:
        if not path.exists():
            raise UserError(f"the folder {self.path} does not exist")
        if self.gguf_file is not None or (path / "config.json").is_file():
            return
        if path.suffix == ".gguf":
            raise UserError(
                f"{path} is a file, and a model is a folder",
                cause="gguf_as_path",
                folder=path.parent,
                file=path.name,
            )
        if found := sorted(entry.name for entry in path.glob("*.gguf")):
            raise UserError(
                f"{path} has no config.json, but holds a GGUF file: {found[0]}",
                cause="gguf_not_named",
                file=found[0],
            )
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"{path} is not a model folder: it has no config.json")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model without loading its weights.

    Attributes:
        digest: of a local folder, SHA-256 over its config and safetensors files; of a hub model,
            the commit that ``revision`` resolves to; of a GGUF file, the SHA-256 of the file.
        commit: of a hub model, the commit that ``revision`` resolves to; None of a local folder.
        tokenizer_digest: SHA-256 over the whole tokenizer and its special token ids.
        max_tokens: positions the model was made for, or None where the config does not say.
        num_params: rough count, for planning only.
        code_digest: SHA-256 over the Python files of a local folder whose code is trusted; None if
            there is no code that would be run. A hub model's commit covers its code.
    """

    num_blocks: int
    width: int
    vocab_size: int
    max_tokens: int | None
    num_params: int
    digest: str
    tokenizer_digest: str
    code_digest: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, ready to be steered."""

    module: nn.Module
    layout: ModelLayout
    device: torch.device
    dtype: torch.dtype
    name: str


def device_kind(name: str = "auto") -> str:
    """The kind of the device of that name; ``auto`` takes CUDA, then XLA, then MPS, then CPU.

    Takes hold of no device, so that a driver may ask for what its replicas will hold. XLA is taken
    by itself where it has more than the CPU to run on.

    Raises:
        UserError: an unknown name, or a device that is not there.
    """
    if name not in DEVICES:
        raise UserError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    present: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xla": xla.has_accelerator if name == "auto" else xla.is_installed,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    chosen = next(d for d in present if present[d]()) if name == "auto" else name
    if not present[chosen]():
        there = ", ".join(d for d in present if present[d]())
        hint = "; it needs torch_xla, see docs/xla.md" if chosen == "xla" else ""
        raise UserError(f"device {name} is not available; available here: {there}{hint}")
    return chosen


def resolve_device(name: str = "auto") -> torch.device:
    """The device of ``device_kind``, held by this process where devices belong to processes.

    Raises:
        UserError: as ``device_kind``, or a device that cannot be had.
    """
    chosen = device_kind(name)
    return xla.device() if chosen == "xla" else torch.device(chosen)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; ``auto`` is float32 on the CPU and bfloat16 on accelerators."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UserError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a model, as its ``tokenizer.json`` defines it.

    ``AutoTokenizer`` may rebuild normalizer and pre-tokenizer from the model type; a published
    ``tokenizer.json`` is therefore loaded as it stands, and ``AutoTokenizer`` serves the rest.

    Raises:
        UserError: no such model, or no tokenizer there.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    opened = source.opened()
    options = opened.hub_options()
    try:
        published = cached_file(
            opened.path,
            "tokenizer.json",
            revision=options.get("revision"),
            local_files_only=options.get("local_files_only", False),
            _raise_exceptions_for_missing_entries=False,
        )
        loader = AutoTokenizer if published is None else PreTrainedTokenizerFast
        tokenizer = loader.from_pretrained(opened.path, **options)
    except Exception as error:  # transformers raises many types here; each means the same to a user
        _refuse_gated(source, error)
        raise UserError(
            f"no usable tokenizer in {source.path}: {_first_line(error)}; save one next to the "
            "weights (tokenizer.json and tokenizer_config.json)"
        ) from error
    tokenizer.padding_side = "right"
    return tokenizer


def _refuse_gated(source: ModelSource, error: BaseException | None) -> None:
    """Raise UserError where the hub refuses, behind whatever error transformers makes of it."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError):
            raise UserError(
                f"{source.path} is gated, and the hub refuses this node's token or finds none: "
                "accept its license on the hub, then log in with `hf auth login`, or set HF_TOKEN "
                "in the environment of every node"
            ) from error
        error = error.__cause__ or error.__context__


def load_config(source: ModelSource) -> Any:
    """The model's config; raises UserError where there is none."""
    from transformers import AutoConfig

    opened = source.opened()
    if opened.is_local and not (Path(opened.path) / "config.json").is_file():
        raise UserError(f"{opened.path} is not a model folder: it has no config.json")
    try:
        return AutoConfig.from_pretrained(opened.path, **opened.hub_options())
    except Exception as error:  # as above
        _refuse_gated(source, error)
        raise UserError(
            f"no model at {source.path!r}: {_first_line(error)}; give a local folder or a hub id "
            "that this machine can reach or has cached"
        ) from error


def read_facts(source: ModelSource, tokenizer: Any) -> ModelFacts:
    """Facts and digests of a model, without loading its weights.

    Raises:
        UserError: no config, no safetensors weights, or a config that does not say how many
            blocks the model has.
    """
    config = load_config(source)
    text = text_config(config)
    try:
        num_blocks, width = int(text.num_hidden_layers), int(text.hidden_size)
        vocab_size = int(text.vocab_size)
    except (AttributeError, TypeError):
        raise UserError(
            f"{source.path}: its config lacks num_hidden_layers, hidden_size or vocab_size; "
            "only decoder language models can be steered"
        ) from None
    commit = None if source.is_local else _hub_commit(source)
    if source.gguf_file is not None:
        digest = gguf_digest(source.gguf_path())
    else:
        digest = commit or _folder_digest(Path(source.path))
    inner = int(getattr(text, "intermediate_size", None) or 4 * width)
    max_tokens = getattr(text, "max_position_embeddings", None)
    return ModelFacts(
        num_blocks=num_blocks,
        width=width,
        vocab_size=vocab_size,
        max_tokens=None if max_tokens is None else int(max_tokens),
        num_params=num_blocks * (4 * width * width + 3 * width * inner) + width * vocab_size,
        digest=digest,
        tokenizer_digest=_tokenizer_digest(tokenizer),
        code_digest=_code_digest(source),
        commit=commit,
    )


def read_eos_ids(source: ModelSource, tokenizer: Any) -> tuple[int, ...]:
    """What ``sampling.eos_ids_of`` finds once the model is loaded, from its files alone.

    Raises:
        UserError: no config, or a ``generation_config.json`` that cannot be used.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    config = load_config(source)
    if text_config(config) is not config:
        # Which part of a nested config the model is given is for its class to say.
        with torch.device("meta"):
            config = AutoModelForCausalLM.from_config(
                config, trust_remote_code=source.trust_remote_code
            ).config
    opened = source.opened()
    options = opened.hub_options()
    del options["trust_remote_code"]  # would be kept as a setting of generation
    try:
        generation = GenerationConfig.from_pretrained(opened.path, **options)
    except OSError:  # there is none; transformers then makes one of the model's config
        generation = None
    except Exception as error:  # as above
        raise UserError(
            f"{source.path}: generation_config.json cannot be used: {_first_line(error)}"
        ) from error
    return named_eos_ids(tokenizer, generation, config)


def load_model(
    source: ModelSource, *, device: str = "auto", dtype: str = "auto", gpu_share: float = 1.0
) -> LoadedModel:
    """The model in evaluation mode on its device, with its layout checked.

    On CUDA, torch's settings are pinned for the whole process (``device_settings``): no TF32, no
    cuDNN attention, the same bits each time.

    Weights come from safetensors only; on the CPU, in the dtype that they are stored in, they stay
    pages of the file, which processes share. Attention runs eagerly where the model caps attention
    logits, since SDPA would ignore the cap, and as transformers chooses otherwise. The blocks are
    spread over all GPUs that CUDA shows if one of them does not hold the model, or if ``gpu_share``
    asks for more than one. Spread, the GPUs work one after the other.

    Args:
        gpu_share: GPUs of this process. Below 1, part of one: what the process takes beyond fails
            here, and takes nothing from other processes.

    Raises:
        UserError: no such device, no model, no safetensors, GPUs that do not hold the model, or a
            layout that is not understood.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(source)
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    caps_attention = getattr(text_config(config), "attn_logit_softcapping", None) is not None
    opened = source.opened()
    options = opened.hub_options() | {
        "dtype": kind,
        "use_safetensors": True,
        "attn_implementation": "eager" if caps_attention else None,
    }
    pin_device_settings(where)
    if where.type == "cuda" and gpu_share < 1:
        _keep_to_share(gpu_share)
    spans_devices = (
        where.type == "cuda"
        and torch.cuda.device_count() > 1
        and (gpu_share > 1 or not _fits_one_gpu(source, config, kind))
    )
    if spans_devices:
        options["device_map"] = "auto"
    try:
        module = AutoModelForCausalLM.from_pretrained(opened.path, **options)
    except Exception as error:  # as above
        raise UserError(f"cannot load {source.path}: {_first_line(error)}") from error
    check_all_placed(getattr(module, "hf_device_map", {}), source.path)
    module.eval().requires_grad_(False)
    if xla.is_xla(where):
        # The layout is found by following tensors by their address, which XLA's do not have.
        layout = find_layout(module, source.path)
        module.to(where)
        module.tie_weights()  # the move took tied weights apart
        if kind == torch.float32:
            xla.multiply_in_float32()
        xla.launch(where)
        return LoadedModel(module, layout, where, kind, source.path)
    if not spans_devices:
        module.to(where)
    return LoadedModel(module, find_layout(module, source.path), where, kind, source.path)


def _fits_one_gpu(source: ModelSource, config: Any, dtype: torch.dtype) -> bool:
    """Whether the current GPU holds the weights and has room for batches besides."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(
            config, trust_remote_code=source.trust_remote_code
        )
    weights_bytes = dtype.itemsize * sum(weight.numel() for weight in module.parameters())
    free_bytes, _ = torch.cuda.mem_get_info()
    return bool(weights_bytes <= _MOST_OF_A_GPU * free_bytes)


def check_all_placed(device_map: Mapping[str, object], name: str) -> None:
    """Raises UserError where parts of a model found no room on the GPUs.

    They would be fetched for every pass, and the engine reads some weights where they lie.
    """
    left = [part for part, place in device_map.items() if str(place) in ("cpu", "disk")]
    if left:
        num_gpus = len({str(place) for place in device_map.values()} - {"cpu", "disk"})
        raise UserError(
            f"{name} does not fit the {num_gpus} GPU{'' if num_gpus == 1 else 's'} of a replica: "
            f"{len(left)} of its {len(device_map)} parts are left over, first {left[0]}; give it "
            "more GPUs, or a smaller dtype",
            cause="too_few_gpus_for_model",
        )


def _keep_to_share(gpu_share: float) -> None:
    """Take no more of the GPU's memory than the share, what CUDA takes for a process included."""
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    fraction = gpu_share - CUDA_CONTEXT_BYTES / total_bytes
    if fraction <= 0:
        raise UserError(
            f"{gpu_share:g} of a GPU of {total_bytes / 2**30:.1f} GiB is "
            f"less than the {CUDA_CONTEXT_BYTES / 2**30:.2f} GiB that CUDA takes for a process",
            cause="too_small_gpu_share",
        )
    torch.cuda.set_per_process_memory_fraction(fraction)


def _folder_digest(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{folder} holds no *.safetensors weights, and no other format is loaded; convert them "
            "with save_pretrained()"
        )
    sha = hashlib.sha256()
    for file in weights:
        try:
            # Opening checks the header against the file's size.
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file} is not a complete safetensors file ({_first_line(error)}); copy or "
                "download it again"
            ) from error
    for file in [folder / "config.json", *weights]:
        with file.open("rb") as stream:
            sha.update(
                f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return sha.hexdigest()


def _code_digest(source: ModelSource) -> str | None:
    """Over every Python file of the folder: which of them are imported is not known beforehand."""
    folder = Path(source.path)
    if not (source.trust_remote_code and source.is_local and _names_code(folder)):
        return None
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        sha.update(f"{name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()


def _names_code(folder: Path) -> bool:
    """Whether the folder's configs name classes of the folder's own Python files."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            content = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("auto_map"):
            return True
    return False


def _hub_commit(source: ModelSource) -> str:
    """The commit that a hub model's revision stands for, from the cache that it was loaded into."""
    from transformers.utils import cached_file

    file, options = source.gguf_file or "config.json", source.hub_options()
    found = Path(cached_file(source.path, file, **options))
    # .../snapshots/<commit>/<file>, and a file's name may have folders of its own
    folder = found.parents[len(Path(file).parts) - 1]
    if folder.parent.name != "snapshots":
        raise UserError(
            f"{source.path}: the hub's cache does not say which commit was loaded ({found}); give "
            "a local folder",
            cause="unknown_commit",
        )
    return folder.name


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = (
        backend.to_str()
        if backend is not None
        else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    )
    special = json.dumps([tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id])
    return hashlib.sha256(f"{body}{special}".encode()).hexdigest()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
