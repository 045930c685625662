"""What mkdocs calls while it builds: pages made from the code, tables made from the results, links into the repository.

Nothing here reaches the network. A link such as `../../benchmarks/results/x/curve.png` works in the repository as it
stands; in the site the picture is copied to `figures/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api_pages import api_pages
from command_pages import command_pages
from import_picture import draw, edges_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from result_tables import fill

ROOT = Path(__file__).parents[2]
OUTSIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that stand at the root of the repository."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages that are made from the code."""
    for name, pages in (("Commands", command_pages()), ("Python API", api_pages())):
        (entry,) = (item for item in config.nav or [] if name in item)
        entry[name] = [{title: path} for path, title, _ in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made from the code, and what the repository keeps elsewhere."""
    for path, _, text in [*command_pages(), *api_pages()]:
        files.append(File.generated(config, path, content=text))
    for path, source in OUTSIDE.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*/*.png")):
        name = f"figures/{picture.parent.name}-{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the tables anew, put pictures in place, and point links at their copies in the site."""
    here = "../" * page.file.src_uri.count("/")
    text = fill(markdown)
    if page.file.src_uri in OUTSIDE:
        text = text.replace("](docs/", "](")
    # Both versions of a picture: the theme shows the one that fits it.
    light, dark = (
        rf"![\1]({here}figures/\2-\3{end}.png#only-{name})" for end, name in (("", "light"), ("-dark", "dark"))
    )
    picture = r"!\[([^\]]*)\]\((?:\.\./)*benchmarks/results/([\w-]+)/([\w-]+)\.png\)"
    text = re.sub(picture, f"{light} {dark}", text)
    return _pictures(text)


def _pictures(text: str) -> str:
    """Put the SVG of `![...](img/x.svg)` into the page itself, where it takes the page's colours."""

    def inline(match: re.Match[str]) -> str:
        alt, name = match.groups()
        made: dict[str, Callable[[], Any]] = {"imports": lambda: draw(edges_of(ROOT))}
        path = ROOT / "docs" / "img" / f"{name}.svg"
        svg = made[name]() if name in made else path.read_text(encoding="utf-8")
        svg = re.sub(r"\s*\n\s*", " ", svg)
        return f'<figure class="picture" role="img" aria-label="{alt}">{svg}</figure>'

    return re.sub(r"^!\[([^\]]*)\]\((?:\.\./)*img/([\w-]+)\.svg\)$", inline, text, flags=re.MULTILINE)
