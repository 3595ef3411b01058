"""The page of an audit in a real browser: its list, its filters, its keys, and what it keeps."""

import json
import time

import numpy as np
import pytest

from d2kit.audit.page import Picture, Row, window, write_page
from d2kit.audit.review import Decision, check_sum, read_review
from d2kit.coco_masks import decode_segmentation, encode_mask

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
TEXTS = {"mask": "after SAM", "other": "before SAM", "take": "Take the mask before SAM"}


def square(left, top, side, size=(40, 60)):
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return encode_mask(mask)["segmentation"]


def picture(tmp_path, number, rows, name="a.png"):
    pixels = np.full((40, 60, 3), 20 * number % 255, np.uint8)
    return Picture(name, tmp_path / name, pixels, [square(5, 5, 8)], rows)


def row(name, doubt, label=0, reasons=("low confidence",), **more):
    masks = {"mask": square(5, 5, 8), "other": square(6, 6, 8)} | more
    return Row(name, label, doubt, reasons, (5, 5, 14, 14), facts={"score": "0.50"}, **masks)


def write(tmp_path, rows, classes=("cat", "dog", HOSTILE), **options):
    folder = tmp_path / "audit"
    pictures = [picture(tmp_path, 1, rows, name=HOSTILE)] if rows else []
    write_page(folder, pictures, title="Audit", source="abc", classes=classes, texts=TEXTS, **options)
    return folder


@pytest.fixture
def page(tmp_path, open_page):
    """Five rows of three classes; the doubts fall from b to e."""
    reasons = (("overlaps",), ("low confidence", "overlaps"), (), ("low confidence",), ("overlaps",))
    doubts = (0.1, 0.9, 0.8, 0.7, 0.6)
    rows = [
        row(name, doubt, label=number % 3, reasons=why)
        for number, (name, doubt, why) in enumerate(zip("abcde", doubts, reasons, strict=True))
    ]
    return open_page(write(tmp_path, rows))


def cards(page):
    return [card.inner_text().split("\n") for card in page.locator("#cards button").all()]


def stored(page):
    return json.loads(page.evaluate("localStorage.getItem('audit abc')") or "{}")


def test_rows_are_sorted_by_doubt_and_names_from_data_stay_text(page):
    assert [float(card[1].split()[0]) for card in cards(page)] == [0.9, 0.8, 0.7, 0.6, 0.1]
    assert [card[0] for card in cards(page)] == ["dog", HOSTILE, "cat", "dog", "cat"]
    page.keyboard.press("j")
    assert page.locator("#detail-label").inner_text() == HOSTILE
    assert page.locator("#facts dd").nth(2).inner_text() == HOSTILE  # the image's name
    assert page.locator("img[onerror]").count() == 0 and page.title() == "Audit"


def test_filters_leave_rows_of_a_class_a_reason_and_a_decision(page):
    page.get_by_label("Reason").select_option(label="overlaps")
    assert len(cards(page)) == 3
    page.locator("#filter-label").select_option(label="dog")
    assert len(cards(page)) == 2
    page.locator("#filter-decision").select_option(label="rejected")
    assert cards(page) == [] and page.locator("#empty").is_visible() and not page.locator("#detail").is_visible()
    page.keyboard.press("a")  # There is no row, so the key decides nothing.
    assert stored(page) == {}


def test_keys_decide_and_a_reload_keeps_the_decisions(page):
    for key in "ar2oo":
        page.keyboard.press(key)
    decisions = {
        "b": {"decision": "accept"},
        "c": {"decision": "reject"},
        "d": {"decision": "class", "class": "dog"},
        "e": {"decision": "other"},
        "a": {"decision": "other"},
    }
    assert stored(page) == decisions
    page.keyboard.press("u")  # The last row stays chosen.
    page.reload()
    assert [card[-1] for card in cards(page)][:4] == ["accepted", "rejected", "class dog", "other mask"]
    assert page.locator("#progress-text").inner_text() == "4 of 5 decided"
    page.locator("#filter-decision").select_option("decided")
    assert len(cards(page)) == 4


def test_the_review_is_saved_read_and_loaded_into_another_browser(page, open_page, tmp_path):
    page.keyboard.press("a")
    page.keyboard.press("3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save review.json").click()
    assert download.value.suggested_filename == "review.json"
    saved = tmp_path / "saved" / "review.json"
    download.value.save_as(saved)
    assert read_review(saved, "abc") == {"b": Decision("accept"), "c": Decision("class", HOSTILE)}
    other = open_page(tmp_path / "audit")
    assert stored(other) == {}
    other.locator("#load").set_input_files(saved)
    other.wait_for_function("document.getElementById('progress-text').textContent.startsWith('2')")
    assert stored(other) == stored(page)
    saved.write_text(json.dumps({"source": "another", "decisions": {}}))
    other.locator("#load").set_input_files(saved)
    other.wait_for_function("document.getElementById('status').textContent.includes('of other labels')")


def test_the_slider_blends_both_masks_and_space_switches(page):
    opacity = "['mask', 'other'].map(key => Number(document.getElementById(`layer-${key}`).style.opacity))"
    page.wait_for_function("!document.getElementById('blend-row').hidden")
    page.locator("#blend").fill("25")
    assert page.evaluate(opacity) == [0.25, 0.75]
    page.locator("#blend").press("Space")
    assert page.evaluate(opacity) == [1, 0]


def drawn(page, layer):
    """Whether a layer covers the middles of the picture's pixels, (H, W)."""
    page.wait_for_function(f"document.getElementById('layer-{layer}').width > 300")
    alpha = """layer => {
        const canvas = document.getElementById(`layer-${layer}`), zoom = Math.ceil(560 / 48);
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const [height, width] = [canvas.height / zoom, canvas.width / zoom];
        const at = (x, y) => data[4 * (Math.floor((y + 0.5) * zoom) * canvas.width + Math.floor((x + 0.5) * zoom)) + 3];
        return [...Array(height).keys()].map(y => [...Array(width).keys()].map(x => at(x, y)));
    }"""
    return np.array(page.evaluate(alpha, layer)) > 0


def test_a_mask_is_drawn_where_it_is(page):
    left, top, width, height = window((5, 5, 14, 14), (40, 60))
    true = decode_segmentation(square(5, 5, 8), 40, 60)[top : top + height, left : left + width]
    assert np.array_equal(drawn(page, "mask"), true > 0)


def test_a_row_of_a_point_or_of_an_object_without_label_has_one_mask(tmp_path, open_page):
    rows = [row("p", 0.9, other=None, point=(8.5, 8.5)), row("q", 0.8, mask=None)]
    page = open_page(write(tmp_path, rows, classes=["target"]))
    page.wait_for_function("!document.getElementById('only').hidden")
    assert page.locator("#only").inner_text() == "after SAM" and not page.locator("#class-row").is_visible()
    page.keyboard.press("o")  # There is no other mask to take.
    assert stored(page) == {}
    page.keyboard.press("j")
    page.wait_for_function("document.getElementById('only').textContent === 'before SAM'")


def test_controls_have_names_and_the_focus_is_seen(page):
    for control in page.locator("button, select, input").all():
        if control.is_visible():
            assert control.evaluate(
                "c => (c.labels?.length || c.getAttribute('aria-label') || c.innerText.trim()) !== ''"
            )
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def contrast(first, second):
    def luminance(color):
        values = np.array([int(value) for value in color.strip("rgba()").split(",")[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_and_fits_a_narrow_window(tmp_path, open_page, scheme):
    folder = write(tmp_path, [row("a", 0.9), row("b", 0.8)])
    page = open_page(folder, color_scheme=scheme, viewport={"width": 1000, "height": 800})
    page.keyboard.press("r")
    background = page.evaluate("getComputedStyle(document.querySelector('#cards button')).backgroundColor")
    for part in ("strong", "small", ".reject"):
        color = page.evaluate(f"getComputedStyle(document.querySelector('#cards {part}')).color")
        assert contrast(color, background) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_ten_thousand_images_stay_fluid(tmp_path, open_page):
    rows = ([row(str(number), number / 10_000, label=number % 2)] for number in range(10_000))
    pictures = (picture(tmp_path, number, part) for number, part in enumerate(rows))
    options = {"title": "Audit", "source": "many", "classes": ["cat", "dog"], "texts": TEXTS}
    assert write_page(tmp_path / "audit", pictures, **options) == 10_000
    start = time.monotonic()
    page = open_page(tmp_path / "audit")
    assert len(cards(page)) == 48 and time.monotonic() - start < 20
    for place in ("104", "209"):
        page.locator("#page").fill(place)
        page.locator("#page").press("Enter")
        page.wait_for_function(f"document.getElementById('page').value === '{place}'")
        page.locator("#cards li").last.scroll_into_view_if_needed()
    page.locator("#page").blur()
    assert len(cards(page)) == 10_000 - 208 * 48 and page.locator("#page-on").is_disabled()
    page.locator("#filter-label").select_option(label="dog")
    assert len(cards(page)) == 48 and page.evaluate("document.querySelectorAll('*').length") < 1000


def test_no_row_is_a_page_too(tmp_path, open_page):
    page = open_page(write(tmp_path, []))
    assert page.locator("#empty").is_visible() and page.locator("#progress-text").inner_text() == "0 of 0 decided"


def test_a_page_replaces_only_an_earlier_page_and_only_as_a_whole(tmp_path):
    folder = write(tmp_path, [row("a", 0.5)])
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(FileExistsError, match="--overwrite"):
        write(tmp_path, [row("b", 0.5)])
    with pytest.raises(ValueError, match="another|size"):
        write(tmp_path, [row("b", 0.5, mask=square(1, 1, 2, size=(7, 7)))], overwrite=True)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]
    write(tmp_path, [row("b", 0.5)], overwrite=True)
    assert '"b"' in (folder / "data" / "index.js").read_text()
    (folder / "data" / "index.js").unlink()
    with pytest.raises(FileExistsError, match="choose another output"):
        write(tmp_path, [], overwrite=True)


def test_the_surroundings_of_a_box_are_a_square_within_the_image(tmp_path):
    assert window((100, 100, 120, 140), (400, 400)) == (66, 76, 88, 88)
    assert window((0, 0, 4, 4), (400, 400)) == (0, 0, 48, 48)
    assert window((390, 0, 400, 30), (30, 400)) == (334, 0, 66, 30)
    large = Picture("a", tmp_path / "a", np.zeros((2000, 2000), np.uint8), [], [Row("a", 0, 1, (), (0, 0, 1900, 1900))])
    write_page(tmp_path / "audit", [large], title="", source="", classes=["cat"], texts=TEXTS)
    assert '"size":[320,320]' in (tmp_path / "audit/data/chunk_0.js").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a review"),
        ('{"source": "abc"}', "not a review"),
        ('{"source": "abc", "decisions": {"a": {"decision": "eat"}}}', "row 'a' is none of accept"),
        ('{"source": "abc", "decisions": {"a": {"decision": "class"}}}', "row 'a' is none of accept"),
        ('{"source": "old", "decisions": {}}', "review of other labels"),
    ],
)
def test_a_review_that_is_none_is_refused_by_its_name(tmp_path, content, message):
    path = tmp_path / "review.json"
    with pytest.raises(FileNotFoundError, match="review.json"):
        read_review(path, "abc")
    path.write_text(content)
    with pytest.raises(ValueError, match=f"review.json.*{message}"):
        read_review(path, "abc")


def test_the_check_sum_changes_with_files_and_text(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    second.write_text("2")
    sums = {check_sum([first]), check_sum([second]), check_sum([first, second]), check_sum([second, first])}
    assert len(sums | {check_sum([first], "x")}) == 5
