"The report as one page: what it holds, where its links lead, and what happens when a reader clicks, in a real browser."
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from browser import MISSING, Browser
from pointwssis.core import write_json
from pointwssis.report.html import embedded, notebooks, plates, tables_in, write_page
from pointwssis.report.notebook_pages import write_notebook_pages
from pointwssis.report.page_parts import ORDER, shown as for_readers
from pointwssis.report.provenance import check_sums, write_sums
from pointwssis.report.results import comparable
from pointwssis.report.tables import markdown

NOTE = "Same method, other data."
COLUMNS = ["masks", "result", "AP", "a rather long head for a narrow screen", "and one more that is as long", "difference"]
ROWS = [["5%", "teacher", (9.5, .2), "a", "b", 1.0], ["10%", "student", 22.5, "a", "b", None],
        ["20%", "student", 100.0, "a", "b", -3.0], ["2%", "student", None, "a", "b", 12.0]]


def number(value, runs=(), how="mean"):
    "A cell as the JSON of a table holds it."
    value, sd = value if isinstance(value, tuple) else (value, None)
    numbers = {"value": value, "sd": sd} if how == "mean" else {"value": value}
    return {"how": how, "of": [], "against": [], "missing": "¹", "mark": "", "numbers": numbers, "runs": list(runs)}


def table(figures, stem, dataset="toys", columns=COLUMNS, rows=(), caption=NOTE, notes=("¹ not known",), runs=None):
    "A table in the folder of figures."
    made = {"dataset": dataset, "caption": caption, "columns": list(columns), "rows": list(rows), "notes": list(notes),
            "root": "../runs", "runs": runs or {}}
    write_json(figures / f"{stem}.json", made)
    return made


def results(): return [[*row[:2], number(row[2]), *row[3:5], number(row[5], how="difference")] for row in ROWS]


def picture(figures, stem, size=(660, 520), kind=".png", **about):
    figures.mkdir(exist_ok=True)
    Image.new("RGB", size, "white").save(figures / f"{stem}{kind}")
    if kind == ".png": (figures / f"{stem}.pdf").write_bytes(b"%PDF")
    write_json(figures / f"{stem}.json", about)


def stage(runs, run, name, wall_s=60.0):
    write_json(runs / run / name / "params.json", {"wall_s": wall_s, "device": "CPU, 2 threads", "status": "done"} if wall_s else {"status": "running"})
    (runs / run / name / "notebook.ipynb").write_text("{}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "Runs and figures of two data sets, and the page."
    root = tmp_path_factory.mktemp("page")
    runs, figures = root / "runs", root / "figures"
    for name in ("curves", "gains", "ablation_levels", "ap_by_split"):
        picture(figures, f"{name}_toys", shows=name, dataset="toys", caption=f"All about {name} & more.", note=NOTE)
    for split in ("10p", "5p"):
        for name in ("misses", "labels"): picture(figures, f"toys_{split}_{name}", (880, 220), ".webp", shows=name, dataset="toys", split=split, seed=0)
    picture(figures, "ap_by_split_toys_two", shows="ap_by_split", dataset="toys_two", caption="Another.")
    table(figures, "results_toys", rows=results())
    (figures / "results_toys.csv").write_text("masks\n")
    stages = ["toys/10p/s0/evaluate", "toys/10p/s0/teacher"]
    facts = {stages[0]: {"git_commit": "0123abc", "device": "CPU", "versions": {"numpy": "2.0"}, "wall_s": 2.5, "data": {"a.json": "f" * 64}}}
    seeds = number(1, stages[:1], "runs") | {"of": ["toys/10p/s0/evaluate/metrics.json#x"]}
    table(figures, "table_levels_toys", columns=["level", "AP", "seeds"], rows=[["1", number(2.0, stages), seeds]], caption="levels", runs=facts)
    table(figures, "table_times_toys", caption="times")
    write_json(figures / "some_notes.json", {"text": "of no data set"})
    table(figures, "results_toys_two", "toys_two", rows=results())
    for run in ("toys/10p/s0", "toys/10p/s10", "toys/10p/s2", "toys/10p-level_0/s0", "toys/5p/s0", "toys_two/10p/s0"): stage(runs, run, "split", 30.0)
    for name in ("teacher", "evaluate", "report"): stage(runs, "toys/10p/s0", name)
    stage(runs, "toys/5p/s0", "teacher", 0)
    stage(runs, "toys/5p/s0", ".teacher.partial")
    write_json(runs / "toys/10p/s0/evaluate/metrics.json", {"stages": {"split": {}, "teacher": {}, "student": {}}})
    write_page(runs, figures)
    return root


@pytest.fixture(scope="module")
def page(folder) -> str: return (folder / "figures/report.html").read_text(encoding="utf-8")


def test_a_table_has_buttons_that_sort_and_cells_as_text(page):
    made = page.split('<section id="toys_two">')[1].split("</table>")[0]
    assert made.count("<th ") == made.count("<button") == 6 and made.count("<tr>") == 5 and made.count("<td") == 24
    assert '<td class="value">9.5 ± 0.2</td>' in made and '<td class="value">—¹</td>' in made and "¹ not known" in page


def test_plots_come_before_photographs_each_in_its_order(folder):
    found = plates(folder / "figures")
    assert [p.stem for p in found] == ["ap_by_split_toys", "ap_by_split_toys_two", "gains_toys", "ablation_levels_toys", "curves_toys",
                                       "toys_5p_labels", "toys_5p_misses", "toys_10p_labels", "toys_10p_misses"]
    assert found[0].caption == "All about ap_by_split & more." and "10% of the images with masks, seed 0" in found[-1].caption
    assert len(set(ORDER)) == len(ORDER)


def test_pictures_that_say_nothing_are_left_out(tmp_path):
    picture(tmp_path, "list", dataset="x")
    (tmp_path / "list.json").write_text("[1, 2]")
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    picture(tmp_path, "other", dataset="x", unknown=1)
    assert [p.stem for p in plates(tmp_path)] == ["other"]


def test_pictures_are_small_and_whole(folder):
    for name, kind in (("toys_10p_labels.webp", "webp"), ("curves_toys.png", "png")):
        made = embedded(folder / "figures" / name)
        assert made.startswith(f"data:image/{kind};base64,") and len(made) < 6000


def test_every_notebook_has_a_link(folder):
    columns, rows = notebooks(folder / "runs", "toys", folder / "figures")
    assert columns == ["run", "seed", "split", "teacher", "evaluate", "device"]
    assert [(run[0].text, seed[0].text) for run, seed, *_ in rows] == [("5p", "0"), ("10p", "0"), ("10p", "2"), ("10p", "10"), ("10p-level_0", "0")]
    assert [cell[0] for cell in rows[1][2:4]] == [("0.5", False, "../runs/toys/10p/s0/split/notebook.ipynb"),
                                                  ("1.0", False, "../runs/toys/10p/s0/teacher/notebook.ipynb")]
    assert [cell[0].text for cell in rows[0][3:]] == ["—", "—", "CPU, 2 threads"]
    assert notebooks(folder / "runs", "unknown", folder / "figures")[1] == []


class Links(HTMLParser):
    def __init__(self): super().__init__(); self.found, self.open = [], []
    def handle_starttag(self, tag, attributes):
        self.found += [(tag, value) for name, value in attributes if name in ("href", "src")]
        if tag not in ("meta", "img", "link"): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag


def test_the_page_holds_everything_and_its_links_hold(folder, page):
    parser = Links()
    parser.feed(page)
    assert parser.open == []
    resources = [value for tag, value in parser.found if tag != "a"]
    assert len(resources) == 9 and all(value.startswith("data:image/") for value in resources) and "@import" not in page and "url(" not in page
    ids = set(re.findall(r'id="([^"]+)"', page))
    for _, value in (pair for pair in parser.found if pair[0] == "a"):
        assert value[1:] in ids if value.startswith("#") else (folder / "figures" / value).exists(), value
    assert sum(value.endswith("notebook.ipynb") for _, value in parser.found) == 9


def test_data_sets_keep_to_themselves(page):
    first, second = page.split('<section id="toys_two">')
    assert "Another." in second and "Another." not in first and "All about gains &amp; more." in first and "All about" not in second
    assert first.count("<details open>") == second.count("<details open>") == 1         # without a table of main rows, the results are open
    titles = ["Results and gains of each step", "Ablations", "Times", "Pictures at 5%", "Pictures at 10%", "toys: executed notebooks"]
    places = [first.index(f"<summary>{title}") for title in titles]
    assert places == sorted(places) and "of no data set" not in page
    assert first.index("<p>levels") > places[1] and first.index("<p>times") > places[2]


def test_numbers_know_their_runs(folder, page):
    assert list(tables_in(folder / "figures")) == ["results_toys", "results_toys_two", "table_levels_toys", "table_times_toys"]
    assert '<td>1</td><td class="value"><button type="button" class="number" data-runs="0 1">2.0</button></td><td><a href="../runs/toys/10p/s0/' in page
    assert page.count('class="number"') == 1 and '["versions", "numpy 2.0"]' in page and '["data", "a.json ffffffffffff"]' in page


def test_the_markdown_page_says_the_same(folder, page):
    text = (folder / "figures/report.md").read_text(encoding="utf-8")
    assert markdown(for_readers(tables_in(folder / "figures")["results_toys"])).strip() in text and text.count("![") == 9 and "](../runs/toys/10p/s0/teacher/notebook.ipynb)" in text
    for target in re.findall(r"\]\(([^)]+)\)", text): assert (folder / "figures" / target).exists(), target


def test_the_same_folder_gives_the_same_page(folder, page):
    write_page(folder / "runs", folder / "figures")
    assert (folder / "figures/report.html").read_text(encoding="utf-8") == page


def test_an_empty_folder_is_a_page_without_sections(tmp_path):
    assert "<section" not in write_page(tmp_path / "runs", tmp_path)[0].read_text()


def test_the_page_needs_no_torch():
    code = "import sys, pointwssis.report.html; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory, folder):
    if MISSING: pytest.skip(MISSING)
    browser = Browser(tmp_path_factory.mktemp("desk"), 1200, 800)
    browser.open(folder / "figures/report.html")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def phone(tmp_path_factory, folder):
    if MISSING: pytest.skip(MISSING)
    browser = Browser(tmp_path_factory.mktemp("phone"), 390, 844, phone=True)
    browser.open(folder / "figures/report.html")
    yield browser
    browser.close()


def column(browser, number):
    return browser.run(f"[...document.querySelector('table').tBodies[0].rows].map(row => row.cells[{number}].textContent)")


@pytest.mark.parametrize("number, rising, falling", [
    (0, ["2%", "5%", "10%", "20%"], ["20%", "10%", "5%", "2%"]),
    (1, ["student", "student", "student", "teacher"], ["teacher", "student", "student", "student"]),
    (2, ["9.5 ± 0.2", "22.5", "100.0", "—¹"], ["100.0", "22.5", "9.5 ± 0.2", "—¹"]),
    (5, ["-3.0", "+1.0", "+12.0", "—¹"], ["+12.0", "+1.0", "-3.0", "—¹"])])
def test_a_click_on_a_head_sorts_its_column(desk, number, rising, falling):
    head = f"table th:nth-child({number + 1})"
    desk.click(f"{head} button")
    assert column(desk, number) == rising and desk.run(f"document.querySelector('{head}').ariaSort") == "ascending"
    desk.click(f"{head} button")
    assert column(desk, number) == falling and desk.run(f"document.querySelector('{head}').ariaSort") == "descending"
    assert desk.run("document.querySelectorAll('th[aria-sort]').length") == 1


def test_sorting_moves_whole_rows(desk):
    desk.click("table th:nth-child(3) button")
    pairs = dict(zip(column(desk, 2), column(desk, 0)))
    assert pairs == {"9.5 ± 0.2": "5%", "22.5": "10%", "100.0": "20%", "—¹": "2%"}


def test_a_click_on_a_number_tells_where_it_is_from(desk):
    shown = "document.querySelector('.origin').open"
    desk.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    desk.click(".number")
    assert desk.run(shown)
    said = desk.run("document.querySelector('.origin').innerText")
    assert "2.0 comes from these stages" in said and "toys/10p/s0/teacher" in said and "0123abc" in said and "numpy 2.0" in said
    links = desk.run("[...document.querySelectorAll('.origin a')].map(link => link.getAttribute('href'))")
    assert links == [f"../runs/toys/10p/s0/{stage}/notebook.ipynb" for stage in ("evaluate", "teacher")]
    desk.click(".origin button")
    assert not desk.run(shown)


@pytest.mark.parametrize("how", ["escape", "click"])
def test_a_click_on_a_picture_enlarges_it(desk, how):
    width = "document.querySelector('{}').getBoundingClientRect().width"
    before = desk.run(width.format("#gains_toys img"))
    assert not desk.run("document.querySelector('.large').open")
    desk.click("#gains_toys .enlarge")
    assert desk.run("document.querySelector('.large').open") and desk.run(width.format(".large img")) > 1.5 * before
    assert desk.run("document.querySelector('.large img').src === document.querySelector('#gains_toys img').src")
    assert desk.run("document.querySelector('.large p').textContent") == "All about gains & more."
    if how == "escape": desk.press("\ue00c")
    else: desk.click(".large")
    assert not desk.run("document.querySelector('.large').open")


def test_pictures_of_other_splits_open(desk):
    shown = "document.querySelector('#toys_10p_misses img').checkVisibility()"
    desk.run("document.querySelectorAll('details').forEach(part => part.open = false)")
    assert not desk.run(shown)
    desk.run("document.querySelector('#toys_10p_misses').closest('details').querySelector('summary').click()")
    assert desk.run(shown)


def test_nothing_is_wider_than_a_phone(phone):
    phone.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert phone.run("innerWidth") == 390 and phone.run("document.documentElement.scrollWidth") == 390
    wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 390.5).map(e => e.tagName)"
    assert phone.run(wide) == []
    box = "document.querySelector('.scroll')"
    assert phone.run(f"{box}.scrollWidth > {box}.clientWidth") and phone.run(f"getComputedStyle({box}).overflowX") == "auto"
    assert phone.run("Math.min(...[...document.querySelectorAll('p, td, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 12


def test_the_first_screen_has_one_table_the_hours_and_findings(tmp_path):
    "A row a share, beside AP against hours; everything else is folded, columns without a number are gone, what holds for all is said once."
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    note = comparable("toys")
    seeds = number(1, (), "runs") | {"of": ["toys/10p/s0/evaluate/metrics.json#x"], "numbers": {"value": 1}}
    main = [["10%", number(16.2), number(26.7), number(31.7), number(None), seeds]]
    table(figures, "table_main_toys", columns=["masks", "teacher", "student, paper's recipe", "supervised", "student, ours", "seeds"], rows=main, caption=f"AP. {note}")
    rows = [["10%", name, number(None), number(value), number(None, how="difference"), seeds] for name, value in (
        ("teacher, AP", 16.2), ("refined masks, matched points in %", 91.0), ("refined masks, mIoU of matched points", 64.0),
        ("refined masks, mIoU of all points", 58.2))]
    table(figures, "results_toys", columns=["masks", "result", "published", "reproduced", "difference", "seeds"], rows=rows, caption=f"Results. {note}")
    picture(figures, "ap_by_hours_toys", shows="ap_by_hours", dataset="toys", caption="At equal hours, points win at 8.2 h.", note=note)
    picture(figures, "curves_toys", shows="curves", dataset="toys", caption="Losses.", note=note)
    page, text = (path.read_text(encoding="utf-8") for path in write_page(runs, figures))
    screen, folded = page.partition("<details>")[::2]
    assert screen.count("<table>") == 1 and "points win at 8.2 h" in screen and "student, ours" not in page and "<details open" not in page
    assert "<li>With 10% of the images outlined, mask AP is: teacher 16.2, student, paper&#39;s recipe 26.7, supervised 31.7.</li>" in screen
    assert "<li>Of the points, 91.0% have a refined mask, with mIoU 64.0; over all points, where a missing mask counts 0, mIoU is 58.2.</li>" in screen
    assert page.count("Same method, other data") == text.count("Same method, other data") == 1
    assert "published" not in page and "Losses." in folded and folded.count("<table>") == 2 and "<summary>Quality of pseudo masks" in folded


def test_the_data_set_with_most_to_compare_comes_first(tmp_path):
    "Networks in the main table count before shares, and then the runs behind it."
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    def main(name: str, networks: int, shares: int, seeds: int) -> None:
        rows = [[f"{10 * (k + 1)}%", *[number(16.2)] * networks] for k in range(shares)]
        table(figures, f"table_main_{name}", name, ["masks", *(f"network {k}" for k in range(networks))], rows, runs={f"{name}/10p/s{k}/evaluate": {} for k in range(seeds)})
    for name, *sizes in (("a", 2, 5, 5), ("b", 3, 1, 1), ("c", 3, 1, 2)): main(name, *sizes)
    page = write_page(runs, figures)[0].read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == ["c", "b", "a"]


def test_published_numbers_are_one_table_and_a_smoke_test_is_one_line(tmp_path):
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    rows = [["PL-DC", "masks", "R-50", "val", "README", number(25.2)], ["this method, reproduced", "both", "R-101", "val", "runs", number(None)]]
    table(figures, "table_without_points_coco", "coco", ["method", "labels", "detector", "images", "source", "1%"], rows)
    table(figures, "results_coco", "coco", rows=results())
    seeds = number(1, (), "runs") | {"of": ["coco_union/20p/s0/evaluate/metrics.json#x"], "numbers": {"value": 1}}
    table(figures, "table_main_coco_union", "coco_union", ["masks", "teacher", "seeds"], [["20%", number(.3), seeds]], runs={"coco_union/20p/s0/evaluate": {}})
    page, text = (path.read_text(encoding="utf-8") for path in write_page(runs, figures))
    union, coco = page.split('<section id="coco">')
    assert "<h2>coco: published, not run here</h2>" in coco and coco.count("<table>") == 1 and "PL-DC" in coco and "reproduced" not in coco
    assert "A smoke test" in union and "teacher 0.3" in union and "<table>" not in union.partition("<section")[2]
    assert "## coco: published, not run here" in text


def test_executed_notebooks_open_as_pages(tmp_path):
    "Of a user's runs; a file that is no notebook keeps its link."
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    picture(figures, "curves_toys", shows="curves", dataset="toys", caption="Losses.")
    for name in ("teacher", "pseudo"): stage(runs, "toys/10p/s0", name)
    cells = [nbformat.v4.new_markdown_cell("# Teacher"), nbformat.v4.new_code_cell("40 + 2")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), runs / "toys/10p/s0/teacher/notebook.ipynb")
    assert write_notebook_pages(runs) == [runs / "toys/10p/s0/teacher/notebook.html"]
    made = (runs / "toys/10p/s0/teacher/notebook.html").read_text(encoding="utf-8")
    assert "Teacher" in made and "<script src=" not in made and "toys/10p/s0/teacher" in made
    page = write_page(runs, figures)[0].read_text(encoding="utf-8")
    assert 'href="../runs/toys/10p/s0/teacher/notebook.html"' in page and 'href="../runs/toys/10p/s0/pseudo/notebook.ipynb"' in page
    write_sums(runs, figures)
    assert "notebook.html" not in (figures / "SHA256SUMS").read_text() and not list(check_sums(runs, figures))


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("width, phone", [(1280, False), (390, True)])
def test_nothing_of_the_committed_report_is_wider_than_the_window(tmp_path, width, phone):
    if MISSING: pytest.skip(MISSING)
    browser = Browser(tmp_path, width, 800, phone=phone)
    try:
        browser.open(ROOT / "figures/report.html")
        assert browser.run("document.querySelector('table').tBodies[0].rows[0].cells[2].getBoundingClientRect().right") < width     # AP of the student
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName)"
        assert browser.run(wide) == []
    finally: browser.close()


def test_a_picture_enlarges_on_a_phone(phone):
    phone.click("#toys_5p_labels .enlarge")
    assert phone.run("document.querySelector('.large img').getBoundingClientRect().width") == 880       # its own size, to be moved about
    assert phone.run("document.documentElement.scrollWidth") == 390
    phone.click(".large")
    assert not phone.run("document.querySelector('.large').open")


def test_names_from_data_are_text_on_the_page(tmp_path):
    name = 'toys"><script>alert(1)<'
    picture(tmp_path / "figures", 'ap_by_split_"toys"', shows="ap_by_split", dataset=name, caption=f"All of {name}.")
    page = next(path for path in write_page(tmp_path / "runs", tmp_path / "figures") if path.suffix == ".html").read_text()
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert(1)&lt;") >= 4
    assert 'id="ap_by_split_&#34;toys&#34;"' in page and page.count("data:image/png") == 1


NAMES = ["<script>alert(1)</script>", "a|b", "[x](javascript:alert(1))", "$\\frac{x$", "`a` *b* \\c"]


class Read(HTMLParser):
    "Text, tags and targets of links."
    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.targets = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for key, value in attrs if key in ("href", "src")]

    def handle_data(self, data): self.text += data


@pytest.mark.parametrize("name", [name.replace("/", "") for name in NAMES])
def test_names_of_runs_and_files_are_text_on_both_pages(tmp_path, name):
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    picture(figures, f"curves_{name}", shows="curves", dataset=name, caption=f"Of {name}.")
    folder = f"{name}/10p/s0/evaluate"
    stage(runs, f"{name}/10p/s0", "evaluate")
    facts = {folder: {"device": name}}
    table(figures, "table_levels_x", name, [name, "b"], [[name, number(2.0, [folder])]], f"About {name}.", [], facts)
    page, text = (path.read_text(encoding="utf-8") for path in write_page(runs, figures))
    read = Read(page)
    assert read.tags.count("script") == page.count("</script>") == 2 and not any("javascript:" in target for target in read.targets)
    assert f"Of {name}." in read.text and f"{name}: executed notebooks" in read.text and f"About {name}." in read.text
    assert not {"code", "em"} & set(read.tags)
    folds = re.sub(r"</?(details|summary)>", "", text)     # their titles hold no name
    bare = re.sub(r"\\[\\`*\[\]<>|$]", "", folds)
    assert "<" not in bare and "$" not in bare and "](javascript" not in bare and "## " in bare


@pytest.mark.parametrize("name", ["javascript:alert(1)", "data:text,x", "vbscript:x", "..", "a b"])
def test_links_lead_to_files_beside_the_page_or_to_the_web(tmp_path, name):
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    picture(figures, f"curves_{name}", shows="curves", dataset=name, caption="A plot.")
    stage(runs, f"{name}/10p/s0", "evaluate")
    for path in write_page(runs, figures):
        text = path.read_text(encoding="utf-8")
        targets = Read(text).targets if path.suffix == ".html" else re.findall(r"\]\(([^)]*)\)", text)
        assert targets and all(target.startswith(("../", "#", "curves_", "data:image/")) for target in targets if target)
        assert all(":" not in target for target in targets if not target.startswith("data:image/"))
