"""What MkDocs adds to the pages in docs/ when it builds the site; mkdocs.yml names this file.

- Comments such as ``<!-- keys of job: stereoset -->`` are replaced by generated reference, so
  nothing generated is committed and any document can link the page around it.
- Files outside docs/ that a page links become pages, as the site has no link to a repository.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for spec_keys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from spec_keys import keys_of_job

ROOT = Path(__file__).parents[1]
INCLUDED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "extending.md",
    "CHANGELOG.md": "changelog.md",
    "examples/in_sample.md": "in-sample.md",
}
"""Files outside docs/ that a page includes, and that page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with a page for each other file that the included ones link."""
    for source in INCLUDED:
        text = (ROOT / source).read_text()
        for link in dict.fromkeys(re.findall(r"\]\((?!https?:|docs/|\.\./)([^)#\s]+)\)", text)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            page = _page_of(target)
            if files.get_file_from_path(page) is None:
                files.append(File.generated(config, page, content=_source_page(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page, with generated reference and with links that stay inside the site."""
    markdown = re.sub(r"<!-- keys of job: (\w+) -->", lambda found: keys_of_job(found[1]), markdown)
    markdown = re.sub(r"<!-- commands -->", lambda _: commands(), markdown)
    folder = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        """A link that leaves docs/ leads to the page of its file."""
        target = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        if target.startswith("docs/"):
            return link[0]
        return f"]({posixpath.relpath(_page_of(target), folder or '.')})"

    return re.sub(r"\]\((\.\./[^)#\s]+)\)", inside, markdown)


def commands() -> str:
    """All commands with their options, as Typer documents them."""
    documented = subprocess.run(
        [sys.executable, "-m", "typer", "jobs.cli", "utils", "docs", "--name", "steersweep"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return documented.stdout.partition("\n")[2]  # the page has its own title


def _page_of(target: str) -> str:
    return INCLUDED.get(target, f"repository/{target}.md")


def _source_page(target: str) -> str:
    language = {".py": "python", ".cff": "yaml"}.get(Path(target).suffix, "text")
    code = (ROOT / target).read_text()
    return f"---\nsearch: {{exclude: true}}\n---\n# {target}\n\n````{language}\n{code}````\n"
