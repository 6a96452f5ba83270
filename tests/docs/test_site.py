"""The site builds without a warning, has a page for all that is promised, and leads nowhere that is not there."""

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gymnasium as gym
import pytest

from docs.website import repository
from prophet_gym.checkpoint import bundled_checkpoints
from tests.browser import CHROMIUM, chromium
from tests.docs.test_api import promised

ROOT = Path(__file__).parents[2]
IDS = [id_ for id_ in gym.registry if re.match("(Remote)?Prophet-|LIBERO-", id_)]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does."""
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    if not bundled_checkpoints().get("libero_small"):
        pytest.skip("no checkpoint is bundled")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


class Parsed(HTMLParser):
    """A page: what it links to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if FETCHED.get(tag) in given and given.get("rel") != "canonical":
            self.loaded.append(given[FETCHED[tag]])


@pytest.fixture(scope="module")
def pages(site):
    # The page of a missing address has links for the top of a server.
    return {path: Parsed(path) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_links_lead_to_pages_and_anchors_that_exist(site, pages):
    assert len(pages) > len(IDS) + len(promised())
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site, pages):
    addresses = {link for page in pages.values() for link in page.loaded if urlsplit(link).scheme not in ("", "data")}
    assert addresses == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_every_promised_name_has_a_page_with_its_docstring(site, pages):
    listed = pages[site / "api.html"].links
    for module, name in promised():
        at = f"api/{module}.{name}.html"
        assert at in listed
        text = re.sub(r"<[^>]*>|\s+", "", (site / at).read_text(encoding="utf-8"))
        assert f"from{module}import{name}" in text
        try:
            doc = getattr(import_module(module), name).__doc__
        except ImportError:
            continue  # an optional library is not installed
        words = re.findall(r"\w{4,}", doc.partition("\n\n")[0])
        if not isinstance(getattr(import_module(module), name), dict):  # a dict has the docstring of all dicts
            assert all(word in text for word in words), at


@pytest.mark.slow
@pytest.mark.parametrize("id_", IDS)
def test_every_id_has_a_page_with_its_spaces_and_ends(site, pages, id_):
    assert f"{id_}.html" in pages[site / "envs" / "index.html"].links
    text = (site / "envs" / f"{id_}.html").read_text(encoding="utf-8")
    spec = gym.spec(id_)
    assert f"at most {spec.max_episode_steps} steps" in text
    if id_ == "Prophet-LIBERO-v0":
        env = gym.make(id_)
        assert str(env.action_space) in text
        assert all(start.instruction in text for start in env.unwrapped.starts)
        assert (site / "envs" / f"{id_}.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_file_of_the_site_is_searched_and_read_on_a_phone(site, tmp_path):
    type_in = """(() => {
        document.querySelector('[data-md-toggle=search]').click()
        const query = document.querySelector('.md-search__input')
        query.focus()
        query.value = 'FlowScale'
        query.dispatchEvent(new Event('input', {bubbles: true}))
        query.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true, key: 'e'}))
        return document.querySelectorAll('.md-search-result__item').length
    })()"""
    with chromium(tmp_path) as page:
        for name in ("index.html", "start/concepts.html", "envs/index.html", "api.html", "evaluation.html"):
            page.open(site / name, 390)
            assert page.value("document.documentElement.scrollWidth") <= 390, name
            asked = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
            assert page.happened("Runtime.exceptionThrown") == []
        page.open(site / "start/concepts.html", 1280)
        assert page.value("document.querySelectorAll('figure svg a[href$=\".html\"]').length") >= 8
        end = time.monotonic() + 60
        while not page.value(type_in):
            assert time.monotonic() < end, "the search found nothing"
            time.sleep(0.5)
        found = page.value("document.querySelector('.md-search-result__item a').href")
        assert "FlowScale" in found


def test_every_page_has_a_place_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    found = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*/*.ipynb")]
    examples = [f"source/{path.relative_to(ROOT)}.md" for path in found]
    assert [page for page in pages + examples if not page.startswith("website/") and f" {page}\n" not in config] == []


def test_links_of_the_repository_fit_the_site():
    text = "[a](../../docs/envs.md#reset) [b](../ceiling/run.py) [c](https://x.org/y) `[d](e)`\n"
    text = text.replace("`[d](e)`", "\n```python\nf[0](gone.py)\n```\n")
    fitted = repository.rewritten(text, "experiments/ceiling/README.md", "experiments/ceiling/README.md")
    assert "[a](../../envs.md#reset) [b](../../source/experiments/ceiling/run.py.md) [c](https://x.org/y)" in fitted
    assert "f[0](gone.py)" in fitted
    with pytest.raises(FileNotFoundError, match=r"docs/envs.md links to gone.md, and there is no docs/gone.md"):
        repository.rewritten("[x](gone.md)", "docs/envs.md", "envs.md")


def test_a_list_after_a_paragraph_is_a_list():
    assert repository.spaced("Say:\n- a\n  b\n- c\n") == "Say:\n\n- a\n  b\n- c\n"
    assert repository.spaced("| a |\n- b") == "| a |\n- b"
