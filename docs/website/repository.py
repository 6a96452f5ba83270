"""Where a file of the repository stands on the site, and its links rewritten to lead there.

The pages are written for a reader of the repository: their links are relative to the file, and may lead to code,
results and pages outside `docs/`. All that is linked from a page of the site is on the site too.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from docs.website import notebook

ROOT = Path(__file__).parents[2]
# Pages of the site that are no page of the repository, where README.md says it already.
TEMPLATES = {"docs/website/home.md": "index.md", "docs/website/limits.md": "limits.md"}
# What mkdocs.yml names though no page leads there.
OTHERS = ("benchmarks/README.md", "examples", "examples/notebooks", "CHANGELOG.md", "CONTRIBUTING.md")
IMAGES = {".png", ".svg", ".webp", ".gif", ".jpg"}
FENCE = re.compile(r"(^ {0,3}```.*?^ {0,3}```\s*?$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<before>\]\(|(?:href|src)=\")(?P<target>[^)\"#\s]+)?(?P<anchor>#[^)\"\s]*)?(?P<after>[)\"])")
SECTION = re.compile(r"^<!-- readme: (?P<title>.*?) -->\n", re.MULTILINE)
MARK = re.compile(r"^<!-- /?figures.*-->$", re.MULTILINE)
# GitHub begins a list right after a paragraph, Markdown only after an empty line.
TIGHT_LIST = re.compile(r"^( *)(?![-*+|#>]|\d+\.)(\S.*)\n(?=\1(?:[-*] |\d+\. ))", re.MULTILINE)
# A list within a list is indented by the width of its marker there, and by four here.
INNER_LIST = re.compile(r"^ {2,3}(?=[-*] )", re.MULTILINE)
LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".md": "markdown", ".cff": "yaml"}


def address(path: str) -> str:
    """Return where a file or folder of the repository, given relative to its root, stands on the site."""
    if path in TEMPLATES:
        return TEMPLATES[path]
    if path == "README.md":
        return "index.md"
    inside = path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    if path.endswith(".md") or PurePosixPath(path).suffix in IMAGES:
        return inside
    return f"source/{path}.md"


def links(text: str) -> list[str]:
    """Return the files that a page links to, as they are written there."""
    found = (LINK.finditer(part) for part in FENCE.split(text)[::2])
    return [match["target"] for matches in found for match in matches if match["target"] and _is_file(match["target"])]


def reachable(pages: Iterable[str]) -> list[str]:
    """Return these pages, and every file and folder that they lead to, whatever the number of links between."""
    found, waiting = [], list(pages)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        if PurePosixPath(path).suffix in (".md", ".svg", ".ipynb"):
            waiting += [_resolved(path, target) for target in links(text_of(path))]
        elif (ROOT / path).is_dir():
            waiting += [f"{path}/{name}" for name in _shown(path)]
    return sorted(found)


def text_of(path: str) -> str:
    """Return the text of a page; a template has README's sections in place of their marks, with links that fit it.

    A notebook is a page too: its texts, its code and what the code showed.
    """
    if path.endswith(".ipynb"):
        return notebook.markdown(ROOT / path)
    text = (ROOT / path).read_text(encoding="utf-8")
    return SECTION.sub(lambda mark: _readme(mark["title"], path), text) if path in TEMPLATES else text


def page(path: str, at: str) -> str:
    """Return the text of a file or folder as a page of the site.

    Args:
        path: The file or folder, relative to the root.
        at: Where its page stands on the site.
    """
    if path.endswith((".md", ".ipynb")):
        return rewritten(text_of(path), path, at)
    head = "---\nsearch:\n  exclude: true\n---\n"
    if (ROOT / path).is_dir():
        names = [f"* [{name}]({_relative(address(f'{path}/{name}'), at)})" for name in _shown(path)]
        return f"{head}# {path}\n\n" + "\n".join(names) + "\n"
    # More tildes than any file here has in a row, so that its own fences stay text.
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"{head}# {path}\n\n~~~~~~{LANGUAGES.get(PurePosixPath(path).suffix, 'text')}\n{text}\n~~~~~~\n"


def rewritten(text: str, path: str, at: str, to: Callable[[str], str] = address) -> str:
    """Return a page's text with links that fit the site, and without the marks of generated blocks.

    Args:
        text: The text.
        path: The file whose links they are, relative to the root.
        at: The page of the site that the text stands on.
        to: Where a file stands; the site by default.
    """

    def fit(match: re.Match[str]) -> str:
        if not match["target"] or not _is_file(match["target"]):
            return match[0]
        target = _relative(to(_resolved(path, match["target"])), at)
        return f"{match['before']}{target}{match['anchor'] or ''}{match['after']}"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(fit, INNER_LIST.sub("    ", spaced(MARK.sub("", part)))) for part in parts[::2]]
    return "".join(parts)


def spaced(text: str) -> str:
    """Return a text with an empty line before each list."""
    return TIGHT_LIST.sub(r"\1\2\n\n", text)


def _readme(title: str, path: str) -> str:
    """Return a section of README, or what stands before its sections, with links as in the template at `path`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    sections["top"] = text.partition("\n## ")[0].partition("\n")[2]
    if title not in sections:
        raise ValueError(f"{path} shows the section {title!r} of README.md, which has {list(sections)}")
    return rewritten(sections[title].strip() + "\n", "README.md", path, to=str)


def _is_file(target: str) -> bool:
    return not re.match(r"[a-z]+:|//", target)


def _resolved(path: str, target: str) -> str:
    """Return the file that a link of the file at `path` leads to, relative to the root."""
    found = os.path.normpath(PurePosixPath(path).parent / target)
    if not (ROOT / found).exists():
        raise FileNotFoundError(f"{path} links to {target}, and there is no {found}")
    return PurePosixPath(found).as_posix()


def _relative(target: str, at: str) -> str:
    return PurePosixPath(os.path.relpath(target, PurePosixPath(at).parent)).as_posix()


def _shown(folder: str) -> list[str]:
    """Return what a reader of a folder looks for: its code and its pages."""
    kept = {".py", ".md", ".ipynb"}
    return sorted(each.name for each in (ROOT / folder).iterdir() if each.suffix in kept and each.name != "__init__.py")
