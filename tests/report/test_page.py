"""The page in a real browser: it loads from disk alone, logs no error, sorts, and fits a laptop and a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.report import browser
from tests.report.rendering import Rendered

pytestmark = pytest.mark.skipif(browser.program() is None, reason="no Chromium: apt-get install chromium")

LAPTOP, PHONE = (1280, 800, False), (390, 844, True)


@pytest.fixture(scope="module")
def window() -> Iterator[browser.Browser]:
    """One browser for all tests."""
    with browser.browser() as opened:
        yield opened


def address(rendered: Rendered) -> str:
    return rendered.folder.page.resolve().as_uri()


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
@pytest.mark.parametrize("which", ["unfinished", "foreign", "single", "nothing"])
def test_the_page_loads_alone_fits_its_window_and_logs_no_error(
    window: browser.Browser, which: str, size: tuple, request: pytest.FixtureRequest
) -> None:
    rendered = request.getfixturevalue(which)
    window.open(address(rendered), *size)
    assert window.requests() == [address(rendered)]
    assert window.complaints() == []
    width, inner = window.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner == size[0], "the page is wider than its window"
    wide = "[...document.querySelectorAll('.wide, .frame')].filter(e => e.scrollWidth > e.clientWidth)"
    if size == LAPTOP:
        assert window.run(f"{wide}.map(e => e.getAttribute('aria-label'))") == [], "it scrolls sideways"
    assert window.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert window.run("document.images.length") == len(list(rendered.folder.figures.glob("*.png")))
    assert "results of a campaign" in window.run("document.title")


def column(window: browser.Browser, section: str, number: int, table: int = 0) -> list[str]:
    body = f"document.querySelectorAll('#{section} table')[{table}].tBodies[0]"
    script = f"[...{body}.rows].map(r => r.cells[{number}].textContent)"
    return window.run(script)


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_a_click_sorts_by_number_and_a_second_one_reverses_it(
    window: browser.Browser, unfinished: Rendered, size: tuple
) -> None:
    window.open(address(unfinished), *size)
    before = column(window, "members", 2)
    window.click("#members th:nth-child(3) button")
    errors = column(window, "members", 2)
    numbers = [float(e) for e in errors if e != "–"]
    assert sorted(errors) == sorted(before) and errors != before
    assert numbers == sorted(numbers) and set(errors[len(numbers) :]) == {"–"}, "blanks come last"
    window.click("#members th:nth-child(3) button")
    numbers = [float(e) for e in column(window, "members", 2) if e != "–"]
    assert numbers == sorted(numbers, reverse=True)
    assert column(window, "members", 2)[-1] == "–"
    assert window.run("document.querySelector('#members th:nth-child(3)').getAttribute('aria-sort')") == "descending"
    window.click("#members th:nth-child(1) button")
    names = column(window, "members", 0)
    assert names == sorted(names)


@pytest.mark.parametrize("which", ["unfinished", "foreign", "single"])
def test_the_first_screen_says_what_was_learned(
    window: browser.Browser, which: str, request: pytest.FixtureRequest
) -> None:
    window.open(address(request.getfixturevalue(which)), *LAPTOP)
    last = "document.querySelector('#learned table').getBoundingClientRect().bottom"
    assert window.run("document.querySelector('main').firstElementChild.id") == "learned"
    assert window.run(last) < LAPTOP[1]
    assert window.run("document.querySelectorAll('#learned img').length") == 1


def test_numbers_of_every_form_sort_by_value_and_dates_follow(window: browser.Browser, unfinished: Rendered) -> None:
    window.open(address(unfinished), *LAPTOP)
    window.run(
        "document.querySelector('#table1 tbody').innerHTML = "
        "['7.5e-3 ± 1e-4', '2026-08-10', '1,234.5', '-2.0 %', '+3.1 %', '–', '[-4.0, 1.0]', '2026-08-02 09:00:00',"
        " '12 of 12', '9 of 12']"
        ".map(t => `<tr><td>${t}</td></tr>`).join('')"
    )
    window.click("#table1 th:nth-child(1) button")
    assert column(window, "table1", 0) == [
        "[-4.0, 1.0]", "-2.0 %", "7.5e-3 ± 1e-4", "+3.1 %", "9 of 12", "12 of 12", "1,234.5", "2026-08-02 09:00:00",
        "2026-08-10", "–",
    ]  # fmt: skip


def test_the_test_sees_requests_and_complaints(window: browser.Browser, unfinished: Rendered, tmp_path) -> None:
    """A page with flaws is distinguished from one without."""
    html = unfinished.folder.page.read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(html.replace("default-src 'none'; img-src data:", "img-src *").replace(
        "<main>", "<main><div style='width: 3000px'>wide</div><img src='other.png'><script>undefined.x</script>"
    ))  # fmt: skip
    window.open(broken.as_uri(), *LAPTOP)
    assert len(window.requests()) == 2 and window.complaints()
    assert window.run("document.documentElement.scrollWidth") > LAPTOP[0]
