"""The page in a real browser. Skipped where there is no Chromium."""

import errno
import re

import pytest
import torch
from experiments.common.browser import browser as started_browser
from experiments.common.browser import serving
from pages import PREPARATION, needs_chromium
from PIL import Image
from torch.nn import functional as F

from abn import wrap_backbone
from abn.editor.session import Session
from abn.edits import Edits, save_edit

pytestmark = needs_chromium


@pytest.fixture(scope="module")  # a process can have one browser of Playwright open
def browser():
    with started_browser() as browser:
        yield browser


@pytest.fixture
def address(session):
    with serving(session) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Opens the page, in a window of its own. An error in the page fails the test."""
    contexts, errors = [], []

    def opened(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#rows li")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(open_page):
    return open_page(viewport={"width": 1280, "height": 860})


def bars(page):
    """The answers before and after, once the last question is answered."""
    page.wait_for_selector("#rows[aria-busy=false] li")
    return page.locator("#rows .value").all_text_contents()


def drag(page, start, end):
    """Drags from one place of the canvas to another, in shares of its width and height."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def open_image(page, name):
    page.locator("#strip button", has_text=name).click()
    page.wait_for_selector("#rows[aria-busy=false] li")
    assert page.locator("#name").text_content().startswith(name)


def test_stroke_moves_the_bars_and_undo_brings_them_back(page):
    before = bars(page)
    page.get_by_label("Remove", exact=True).check()
    drag(page, (0.1, 0.5), (0.9, 0.5))
    after = bars(page)
    assert after != before
    page.get_by_role("button", name="Undo").click()
    assert bars(page) == before
    page.get_by_role("button", name="Redo").click()
    assert bars(page) == after


def test_saved_edit_is_there_when_the_page_is_opened_again(page, edits, open_page):
    page.get_by_label("Remove", exact=True).check()
    drag(page, (0.1, 0.5), (0.9, 0.5))
    after = bars(page)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Saved:").wait_for()
    saved = Edits(edits)
    middle, own = saved["cat/0.png"][0, 7:9, 2:14], saved.original("cat/0.png")[0, 7:9, 2:14]
    assert (middle < own).all()
    later = open_page()
    assert bars(later) == after
    assert later.locator("#strip li").first.locator(".edited").text_content() == "edited"
    later.get_by_role("button", name="Delete saved edit").click()
    later.get_by_text("The saved edit is deleted").wait_for()
    assert len(Edits(edits)) == 0


def test_keys_paint_and_save(page, edits):
    before = bars(page)
    page.keyboard.press("e")
    page.locator("#canvas").focus()
    for key in ("ArrowUp", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert bars(page) != before
    for key in ("x", "m", "Space", *2 * ("ArrowRight", "ArrowDown"), "Space"):  # a box between two corners
        page.keyboard.press(key)
    page.keyboard.press("Control+s")
    page.get_by_text("Saved:").wait_for()
    assert Edits(edits)["cat/0.png"][0, 8, 8] == 1
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert bars(page) == before
    page.keyboard.press("PageDown")
    page.wait_for_function("() => document.querySelector('#name').textContent.startsWith('cat/1.png')")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()


def test_whole_map_is_filled_cleared_and_inverted(page, edits):
    bars(page)
    for key, value in (("f", 1), ("Delete", 0), ("i", 1)):
        page.keyboard.press(key)
        page.keyboard.press("Control+s")
        page.get_by_text("Saved:").wait_for()
        bars(page)
        assert Edits(edits)["cat/0.png"].unique().tolist() == [value]
    page.keyboard.press("r")
    assert page.get_by_role("button", name="Save", exact=True).is_enabled()


def test_map_of_a_class_is_shown_and_left_again(page):
    before = bars(page)
    page.get_by_label("Show the map of the class").fill("owl")
    page.keyboard.press("Enter")
    page.get_by_text("There is no class owl").wait_for()
    page.locator("#rows .name").nth(1).click()
    page.locator("#showing:visible").wait_for()
    assert page.get_by_role("button", name="Fill").is_disabled()
    page.get_by_role("button", name="Back to the edit").click()
    assert bars(page) == before
    assert page.get_by_role("button", name="Fill").is_enabled()


def test_brush_and_colours_are_as_they_were_left(page):
    bars(page)
    page.keyboard.press("]")
    page.get_by_label("Colours").select_option("viridis")
    page.reload()
    bars(page)
    assert page.get_by_label("Size").input_value() == "14"
    assert page.get_by_label("Colours").input_value() == "viridis"
    assert page.locator("#size + output").text_content() == "14 %"


def test_two_windows_lose_no_edit(page, open_page, edits):
    other = open_page()
    for window, key in ((page, "f"), (other, "Delete")):
        bars(window)
        window.keyboard.press(key)
    page.keyboard.press("Control+s")
    page.get_by_text("Saved:").wait_for()
    other.keyboard.press("Control+s")
    other.get_by_text("somebody else changed the edit").wait_for()
    assert Edits(edits)["cat/0.png"].unique().tolist() == [1]
    other.keyboard.press("Control+z")  # brings the own edit back, to be saved on purpose
    other.keyboard.press("Control+s")
    other.get_by_text("Saved:").wait_for()
    assert Edits(edits)["cat/0.png"].unique().tolist() == [0]


def test_saving_again_while_a_save_runs_is_no_conflict(page, edits):
    bars(page)
    page.route("**/edit", lambda route: (page.wait_for_timeout(200), route.continue_()))
    page.keyboard.press("f")
    page.keyboard.press("Control+s")
    page.keyboard.press("Delete")
    page.keyboard.press("Control+s")
    page.keyboard.press("Control+s")
    page.wait_for_function("() => document.querySelector('#strip .edited').textContent === 'edited'")
    assert not page.get_by_text("somebody else").is_visible()
    assert Edits(edits)["cat/0.png"].max() == 0
    assert Edits(edits).revision("cat/0.png") == 2


def test_full_disk_is_told_and_the_strokes_are_kept(page, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = bars(page)
    page.keyboard.press("Delete")
    after = bars(page)
    with monkeypatch.context() as patch:
        patch.setattr("abn.edits.save_file", full)
        page.keyboard.press("Control+s")
        page.get_by_text("No space left on device").wait_for()
    assert bars(page) == after != before
    page.keyboard.press("Control+s")
    page.get_by_text("Saved:").wait_for()


def test_strokes_are_kept_while_other_images_are_open_and_leaving_asks(page):
    bars(page)
    page.keyboard.press("Delete")
    cleared = bars(page)
    open_image(page, "cat/1.png")
    assert bars(page) != cleared
    assert page.locator("#strip li").first.locator(".edited").text_content() == "not saved"
    open_image(page, "cat/0.png")
    assert bars(page) == cleared
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]


def test_stroke_ends_with_its_image(page):
    before = bars(page)
    page.locator("#canvas").focus()
    for key in ("m", "Space", "ArrowLeft", "PageDown"):  # a box with one corner
        page.keyboard.press(key)
    page.wait_for_selector("#rows[aria-busy=false] li")
    assert page.locator("#name").text_content().startswith("cat/1.png")
    assert page.evaluate("document.activeElement.id") == "canvas"
    page.keyboard.press("PageUp")
    assert bars(page) == before
    assert page.get_by_role("button", name="Undo").is_disabled()


def test_wide_image_is_painted_where_the_pointer_is(model, photos, edits, browser):
    Image.new("RGB", (512, 64)).save(photos / "cat/0.png")
    with serving(Session(model, photos, edits, name="small")) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(address)
        bars(page)
        page.keyboard.press("Delete")
        page.keyboard.press("m")
        drag(page, (0, 0), (0.5, 0.5))
        page.keyboard.press("Control+s")
        page.get_by_text("Saved:").wait_for()
        page.close()
    expected = torch.zeros(1, 16, 16)
    expected[:, :8, :8] = 1
    assert torch.allclose(Edits(edits)["cat/0.png"], expected, atol=0.1)


def test_mask_of_the_image_replaces_the_map_of_the_task(photos, edits, browser, tmp_path):
    model = wrap_backbone("timm/test_resnet", tasks=2).eval()
    model.preprocessing, model.classes = PREPARATION, ("smiles", "glasses")
    (tmp_path / "masks/cat").mkdir(parents=True)
    Image.new("L", (64, 48), 0).save(tmp_path / "masks/cat/0.png")
    session = Session(model, photos, edits, name="tasks", masks=tmp_path / "masks")
    with serving(session) as address:
        page = browser.new_page()
        page.goto(address)
        bars(page)
        assert not page.get_by_label("Show the map of the class").is_visible()
        page.get_by_role("button", name="glasses").click()
        page.get_by_role("button", name="Start from the mask").click()
        page.wait_for_selector("#undo[aria-disabled=false]")
        page.keyboard.press("Control+s")
        page.get_by_text("Saved:").wait_for()
        page.close()
    edited, own = Edits(edits)["cat/0.png"], Edits(edits).original("cat/0.png")
    assert edited[1].max() == 0 < own[1].max()
    assert torch.allclose(edited[0], own[0], atol=1e-6)


def test_broken_image_is_shown_as_such(page):
    page.locator("#strip button", has_text="z.png").click()
    page.get_by_role("alert").get_by_text("cannot be read").wait_for()
    assert page.get_by_role("button", name="Fill").is_disabled()
    assert not page.locator("#canvas").is_visible()
    open_image(page, "dog/0.png")
    assert not page.get_by_role("alert").is_visible()


def test_images_are_sorted(page, session):
    page.get_by_text("images edited").wait_for()
    names = [session.names[index] for index in range(4)]
    confidence = {name: session.predict(i).softmax(dim=0).max().item() for i, name in enumerate(names)}
    page.get_by_label("Sort by").select_option("least confident")
    shown = page.locator("#strip .file").all_text_contents()
    assert shown == [*sorted(names, key=confidence.get), "z.png"]
    page.get_by_label("Sort by").select_option("mistakes first")
    verdicts = page.locator("#strip .verdict").all_text_contents()
    assert [bool(verdict) for verdict in verdicts] == sorted(map(bool, verdicts), reverse=True)
    assert "is cat" in verdicts


def test_small_window_holds_the_page_and_a_finger_paints(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    before = bars(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("e")
    page.locator("#canvas").tap()
    assert bars(page) != before


def test_reading_alone_has_no_button_to_save(model, photos, edits, browser):
    save_edit(edits, "cat/0.png", torch.zeros(1, 16, 16), preprocessing=PREPARATION)
    with serving(Session(model, photos, edits, name="small", read_only=True)) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#rows li")
        assert not page.locator("#save").is_visible()
        assert page.get_by_text("Read only").is_visible()
        assert page.locator("#undo").is_enabled()  # back to the network's own map
        page.close()


def test_wrong_token_is_told(page, address):
    page.goto(re.sub("token=.*", "token=x", address))
    page.get_by_text("the token is missing or wrong").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_have_names_and_texts_have_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme)
    bars(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, canvas")]
            .filter((control) => !(control.labels?.length || control.textContent.trim() || control.ariaLabel))
            .map((control) => control.outerHTML)"""
    )
    assert nameless == []
    colors = page.evaluate(
        """() => ["h1", "#status", "#name", ".hint", "button", "#rows .name", ".value.before", ".edited",
            "#strip .prediction", "[role=alert]"].map((selector) => {
                let element = document.querySelector(selector);
                const text = getComputedStyle(element).color;
                const opaque = (node) => getComputedStyle(node).backgroundColor;
                while (opaque(element) === "rgba(0, 0, 0, 0)") element = element.parentElement;
                return [selector, text, opaque(element)];
            })"""
    )
    for selector, text, background in colors:
        light, dark = sorted(map(luminance, (text, background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def luminance(color):
    """The relative luminance of the Web Content Accessibility Guidelines, of a text like "rgb(1, 2, 3)"."""
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def run(page, module, code):
    return page.evaluate(f"async () => {{ const m = await import('/{module}.js'); return {code}; }}")


GRID = "{rows: 4, columns: 6, width: 60, height: 40}"  # cells of 10 × 10 pixels


def test_coverage_of_strokes_and_shapes(page):
    def coverage(code):
        values = run(page, "static/brush", f"Object.values(m.{code})")
        return torch.tensor(values).view(4, 6)

    dab = coverage(f"strokeCoverage({GRID}, [25, 15], [25, 15], 5, 0)")
    assert (dab[1, 2], dab[0, 0], dab[3, 5]) == (1, 0, 0)
    assert torch.allclose(dab[:3, 1:4], dab[:3, 1:4].flip(0)) & torch.allclose(
        dab[:3, 1:4], dab[:3, 1:4].flip(1)
    )
    row = coverage(f"strokeCoverage({GRID}, [5, 25], [55, 25], 5, 0)")
    assert row[2].tolist() == [1] * 6
    assert row[0].max() == 0
    soft = coverage(f"strokeCoverage({GRID}, [25, 15], [25, 15], 15, 1)")
    hard = coverage(f"strokeCoverage({GRID}, [25, 15], [25, 15], 15, 0)")
    assert (soft[1, 2], hard[1, 2], hard[1, 3]) == (1, 1, 1)
    assert 0 < soft[1, 4] < soft[1, 3] < 1
    box = coverage(f"boxCoverage({GRID}, [45, 10], [10, 25])")  # corners in any order
    assert box[1].tolist() == [0, 1, 1, 1, 0.5, 0]
    assert box[2].tolist() == [0, 0.5, 0.5, 0.5, 0.25, 0]
    ellipse = coverage(f"ellipseCoverage({GRID}, [0, 0], [60, 40])")
    assert (ellipse[1:3, 1:5] == 1).all()
    assert ellipse[0, 0] < 0.5
    assert torch.allclose(ellipse, ellipse.flip(0, 1))


def test_strength_and_effect_of_the_brush(page):
    def result(code):
        return run(page, "static/brush", f"[...m.{code}]")

    one = "new Float32Array([0.5, 0.5, 0.5])"
    assert result(f"applied({one}, [0, 0.5, 1], 1, true)") == [0.5, 0.75, 1]
    assert result(f"applied({one}, [0, 0.5, 1], 0.5, false)") == [0.5, 0.375, 0.25]
    assert result("union([0, 0.5, 1], [0.25, 0.25, 0.25])") == [0.25, 0.5, 1]
    assert result("inverted(new Float32Array([0, 0.25, 1]))") == [1, 0.75, 0]


def test_history_drops_what_was_undone(page):
    code = """(() => {
        const history = new m.History(0);
        for (const state of [1, 2]) history.add(state);
        history.undo();
        history.add(3);
        const states = [history.current, history.canUndo, history.canRedo];
        for (let i = 0; i < 5; i += 1) history.undo();
        return [...states, history.current];
    })()"""
    assert run(page, "static/history", code) == [3, True, False, 0]


def test_map_is_enlarged_as_the_library_does(page):
    maps = torch.rand(1, 1, 3, 5)
    code = f"[...m.enlarged({maps.flatten().tolist()}, {{rows: 3, columns: 5}}, 16, 8)]"
    shown = torch.tensor(run(page, "shared/heatmap", code)).view(1, 1, 8, 16)
    assert torch.allclose(shown, F.interpolate(maps, size=(8, 16), mode="bilinear"), atol=1e-5)


def test_only_the_latest_question_is_kept_while_an_answer_is_awaited(page):
    code = """(async () => {
        const asked = [], shown = [];
        const release = [];
        const latest = new m.Latest({
            ask: (question) => { asked.push(question); return new Promise((done) => release.push(done)); },
            show: (question) => shown.push(question),
            fail: () => {},
            setBusy: () => {},
        });
        const first = latest.put(1);
        for (const question of [2, 3, 4]) latest.put(question);
        release[0]();
        await new Promise((done) => setTimeout(done));
        release[1]();
        await first;
        return [asked, shown];
    })()"""
    assert run(page, "static/latest", code) == [[1, 4], [1, 4]]
