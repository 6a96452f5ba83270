"""Serve MkDocs while it builds the site (mkdocs.yml names this file); nothing that is generated is committed."""

import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.website import api, gallery, repository

GENERATED = {"all environments": gallery.navigation, "all names": api.navigation}
"""Entries of `nav` in mkdocs.yml that stand for pages of the site alone."""
ASSETS = {"assets/site.css": "site.css", "assets/iframe-worker.js": "iframe_worker.js"}
"""What `extra_css` and `polyfills` in mkdocs.yml name, and where it is here."""
FIGURE = re.compile(r"!\[[^\]]*\]\(([\w/]+\.svg)\)")
"""An image of a page that is a drawing with links."""
HREF = re.compile(r'href="([^"#]+)([^"]*)"')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    config.nav = _filled(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and all that pages lead to outside the folder of the documents."""
    ours = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in repository.reachable([*ours, *repository.TEMPLATES, *repository.OTHERS, *api.sources()]):
        at = repository.address(path)
        if path in ours or files.get_file_from_path(at):
            continue
        if at.endswith(".md"):
            files.append(File.generated(config, at, content=repository.page(path, at)))
        else:
            files.append(File.generated(config, at, abs_src_path=str(repository.ROOT / path)))
    for at, name in ASSETS.items():
        files.append(File.generated(config, at, abs_src_path=str(repository.ROOT / "docs" / "website" / name)))
    for promise in api.promises():
        files.append(File.generated(config, promise.at, content=api.page(promise)))
    files.append(File.generated(config, "envs/index.md", content=gallery.overview()))
    for entry in gallery.entries():
        files.append(File.generated(config, entry.at, content=gallery.page(entry)))
    for at, image in gallery.sheets().items():
        files.append(File.generated(config, at, content=image))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fit the links of a page that a reader of the repository sees too."""
    del config
    at = page.file.src_uri
    if page.file.generated_by:
        return markdown
    text = repository.rewritten(markdown, f"docs/{at}", at)
    if at == "api.md":
        return api.linked(text)
    return FIGURE.sub(lambda figure: _drawn(figure[1], page, files), text)


def _drawn(name: str, page: Page, files: Files) -> str:
    """Return a drawing as part of its page, where its links work; as an image it has none."""
    path = posixpath.join(posixpath.dirname(f"docs/{page.file.src_uri}"), name)
    drawing = repository.rewritten(repository.text_of(path), path, page.file.src_uri)

    def address(link: re.Match[str]) -> str:
        at = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[1]))
        target = files.get_file_from_path(at)
        assert target is not None, f"{path} links to {at}, which is not on the site"
        return f'href="{target.url_relative_to(page.file)}{link[2]}"'

    return f"<figure>\n{HREF.sub(address, drawing)}</figure>\n"


def _filled(nav: list) -> list:
    """Return the navigation with what the names in `GENERATED` stand for."""
    filled = []
    for item in nav:
        if isinstance(item, dict):
            filled.append({title: _filled(each) if isinstance(each, list) else each for title, each in item.items()})
        elif item in GENERATED:
            filled += GENERATED[item]()
        else:
            filled.append(item)
    return filled
