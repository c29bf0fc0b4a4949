"""What Get started and the Guide show is done: their files, commands and Python, in that order.

The model is tiny and there are few examples. What needs a model of the hub is planned instead, with
the tiny model; what downloads data is left to test_docs.py, which parses all commands.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.sweeps import steersweep
from tests.unit.test_docs import ROOT, commands

SMALLER = {
    "embedded:smollm2": "embedded:gemma2-tiny",
    '{path: "embedded:everyday.json"}': '{path: "embedded:everyday.json", bias_types: [gender]}',
    "[10, 20]": "[2, 4]",
    "[10,15,20]": "[2,3,4]",
    "layers: [20]": "layers: [4]",
    "random: 19, shuffled: 19": "random: 1, shuffled: 1",
    "limit: 20}": "limit: 2}",
}
DEMO = [
    "--set=compute.executor=in_process",
    "--set=data.bias_types=[gender]",
    "--set=steering.layers=[4]",
]
OF_THE_HUB = ["models.base.path=Qwen/Qwen2.5-0.5B"]
INSTEAD = ["models.base.path=embedded:gemma2-tiny", "data.path=embedded:examples.json"]
"""A hub's model with downloaded data is replaced by these, and only planned."""


def smaller(text: str) -> str:
    """A block of a page, with less to compute."""
    for now, then in SMALLER.items():
        text = text.replace(now, then)
    return text


def planned(words: list[str]) -> list[str]:
    """The plan of a sweep that needs the hub."""
    assert [word for word in words if "/" in word] == OF_THE_HUB, words
    sets = [f"--set={value}" for value in [*INSTEAD, "steering.layers=[2]"]]
    return ["plan", words[1], "--seconds", "0", *sets]


@pytest.mark.parametrize("page", ["get-started.md", "guide.md"])
def test_what_a_page_shows_works(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "yaml":
            file = block.partition("\n")[0].removeprefix("# ")
            Path(file).write_text(smaller(block))
        elif language == "python":
            exec(compile(block, page, "exec"), {})
            assert capsys.readouterr().out
        else:
            for call in commands(smaller(block)):
                words = shlex.split(call)[1:]
                if words[:2] == ["data", "fetch"]:
                    continue
                if any(word in OF_THE_HUB for word in words):
                    words = planned(words)
                elif words == ["run", "demo-tiny"]:
                    words += DEMO
                elif words[0] == "plan":
                    words += ["--seconds", "0"]
                done = steersweep(*words)
                assert done.code == 0, (call, done)
