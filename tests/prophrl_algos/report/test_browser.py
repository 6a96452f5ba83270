"""What a browser makes of a report: it fits a phone, asks for nothing and complains of nothing."""

import time

import pytest

from prophet_gym.cli.report._page import page
from prophrl_algos.cli import main

FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.mark.parametrize(("width", "dark"), [(375, False), (375, True), (1280, False)])
def test_a_page_fits_asks_for_nothing_and_complains_of_nothing(browser, runs, run, tmp_path, width, dark):
    main(["report", str(run), "--films", "3", "--device", "cpu"])
    main(["report", *map(str, runs), "--out", str(tmp_path / "several.html")])
    for path in (run / "report.html", tmp_path / "several.html"):
        browser.open(path, width, dark=dark)
        browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.value("innerWidth") == width
        assert browser.value(FITS)
        assert browser.value("document.querySelectorAll('svg').length") > 10
        assert browser.value("[...document.images].every(each => each.complete && each.naturalWidth > 100)")
        assert browser.happened("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
        asked = [each["request"]["url"][:5] for each in browser.happened("Network.requestWillBeSent")]
        assert set(asked) <= {"file:", "data:"}


def test_text_can_be_read_on_its_ground_in_both_schemes(browser, run):
    main(["report", str(run)])
    for dark in (False, True):
        browser.open(run / "report.html", 375, dark=dark)
        ground = luminance(browser, "getComputedStyle(document.querySelector('figure')).backgroundColor")
        assert (ground < 0.2) == dark
        for what in ("h1", "figcaption", "figure svg text"):
            name = "fill" if "svg" in what else "color"
            assert (
                contrast(luminance(browser, f"getComputedStyle(document.querySelector('{what}')).{name}"), ground) > 4.5
            )
        for colour in range(6):
            browser.value(f"document.body.style.outlineColor = 'var(--c{colour})'")
            assert contrast(luminance(browser, "getComputedStyle(document.body).outlineColor"), ground) > 3


def luminance(browser, expression):
    """The relative luminance of WCAG 2."""
    channels = browser.value(f"{expression}.match(/[\\d.]+/g).slice(0, 3).map(Number)")
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_a_live_page_loads_itself_again(browser, tmp_path):
    path = tmp_path / "live.html"
    path.write_text(page([], {}, "update", reload=1.0), encoding="utf-8")
    browser.open(path, 375)
    assert browser.value("document.title") == ""
    path.write_text(page([], {}, "update").replace("<title>", "<title>later"), encoding="utf-8")
    began = time.monotonic()
    while browser.value("document.title") != "later":
        assert time.monotonic() - began < 30
        time.sleep(0.1)
