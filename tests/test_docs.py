"""The documentation is true: links lead somewhere, commands exist, error strings are in the code, and the Python runs."""

import ast
import fnmatch
import re
import sys
import tomllib

import pytest

from tests.conftest import BASE, ROOT
from tests.test_layers import ORDER
from tests.test_words import BANNED_PARTS, BRITISH_STEMS

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*/README.md")),
    *sorted((ROOT / "tools").glob("*/README.md")),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NOT_OURS = {"pip", "pytest", "venv", "ruff", "mypy"}


def name(page):
    return str(page.relative_to(ROOT))


def without_fences(text):
    return FENCE.sub("", text)


def code(page):
    """What `page` sets as code: fenced blocks, and the spans between backticks outside them."""
    text = page.read_text()
    return [body for _, body in FENCE.findall(text)] + re.findall(r"`([^`\n]+)`", without_fences(text))


def blocks(page, info):
    """The fenced blocks of `page` whose first line is ```` ```info ````."""
    return [body for written, body in FENCE.findall(page.read_text()) if written.strip() == info]


def anchors(page):
    """The anchors of `page`'s headings as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", without_fences(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(without_fences(page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}"


def test_readme_links_to_every_page_and_recipe():
    links = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall((ROOT / "README.md").read_text())}
    folders = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    folders += (ROOT / "recipes").glob("*/README.md")
    assert set(folders) <= links


def test_readme_is_short_and_its_image_is_small():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170
    assert (ROOT / "docs" / "images" / "verdicts.png").stat().st_size < 200_000


def test_readme_maps_every_folder():
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    folders = {folder.name for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    ours = {folder for folder in folders if not any(fnmatch.fnmatch(folder, pattern) for pattern in ignored)}
    text = (ROOT / "README.md").read_text()
    mapped = re.findall(r"^(\w+)/ +\S", text[text.index("## Repository") :], re.MULTILINE)
    assert sorted(mapped) == sorted(ours)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_spelling_is_american(page):
    british = {word for word in BANNED_PARTS if not word.startswith(("pictur", "photograph"))}
    prose = re.sub(r"`[^`\n]+`", "", without_fences(page.read_text())).lower()
    wrong = {word for word in re.findall(r"[a-z]+", prose) if word in british or BRITISH_STEMS.match(word)}
    assert not wrong, name(page)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_import_order_is_the_one_that_is_tested(page):
    assert ", ".join(f"`{package}`" for package in ORDER) in (ROOT / page).read_text()


def test_readme_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| extra | for |") : text.index("## Quickstart")]
    assert set(re.findall(r"`(\w+)`", table)) == set(extras)


def test_readme_gives_the_figures_of_the_pages():
    """Intervals are the demo's; memory is that of each recipe's page."""
    text, demo = (ROOT / "README.md").read_text(), (ROOT / "docs" / "demo.md").read_text()
    intervals = re.findall(r"[+-]?\d\.\d{3} \[[^]]+\]", text)
    assert len(intervals) == 12 and all(interval in demo for interval in intervals)
    recipes = re.findall(r"^\| \[`([\w-]+)`\]\(recipes/.*$", text, re.MULTILINE)
    assert len(recipes) == 5
    for line in re.findall(r"^\| \[`spatial.*$", text, re.MULTILINE):
        page = (ROOT / re.search(r"\((recipes/[^)]+)\)", line)[1]).read_text()
        assert all(memory in page for memory in re.findall(r"(\d+\.\d) GiB", line)), line


def make_verbs(text):
    """The verbs that `text`, one piece of code, gives to make."""
    for line in re.findall(r"\bmake +([^\n#;&|']+)", text):
        for word in line.split():
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            yield word


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_verbs_exist(page):
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = {verb for text in code(page) for verb in make_verbs(text)}
    assert written <= verbs, f"{name(page)}: make {', '.join(written - verbs)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_that_are_run_exist(page):
    for text in code(page):
        for module in re.findall(r"(?<=\s)-m ([a-z_][\w.]*)", text):
            path = ROOT.joinpath(*module.split("."))
            ours = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert ours or module in NOT_OURS, f"{name(page)}: -m {module}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    """Paths in code that start with a folder of ours and hold no placeholder (NAME, X, ...)."""
    # Not `sft/merged` and the like, which are folders of a run.
    folders = "|".join({*ORDER, "recipes", "tests", "docs"} - {"data", "sft", "grpo"})
    if name(page) == "CHANGELOG.md":
        return  # it names what is no more
    examples = re.findall(r"^```python file=(\S+)", page.read_text(), re.MULTILINE)
    for text in code(page):
        for path in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]+\w)", text):
            example = path.rpartition("/")[2].removeprefix("test_") in examples
            if not example and not re.search(r"[A-Z]{2,}|/X\b", path.replace("README", "")):
                assert (ROOT / path).exists(), f"{name(page)}: {path}"


def strings(tree):
    """The strings of a module but its docstrings; what an f-string fills in is written `...`."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_error_strings_are_in_the_code():
    """Each quoted heading of the FAQ is in one string of the code, with anything at its `...`."""
    files = (file for package in ORDER for file in (ROOT / package).rglob("*.py"))
    written = "\0".join(text for file in files for text in strings(ast.parse(file.read_text())))
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 6
    for error in quoted:
        pattern = "[^\0]*".join(re.escape(part) for part in error.split("..."))
        assert re.search(pattern, written), f"{error}: in no string of the code"


def test_keys_of_data_yaml_are_all_there():
    from data.recipe import DataRecipe

    page = (ROOT / "docs" / "data.md").read_text()
    table = page[page.index("## `data.yaml`") : page.index("## For other frameworks")]
    keys = {key for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    elsewhere = {"box_tolerance", "output_dir", "seed", "pixels", "max_new_tokens"}  # with `policy`; in every recipe
    assert keys == set(DataRecipe.model_fields) - elsewhere
    assert "`box_tolerance`" in table


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python runnable")], ids=name)
def test_python_marked_runnable_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one namespace; ```` ```python file=NAME ```` is a file beside them."""
    for info, body in FENCE.findall(page.read_text()):
        if info.startswith("python file="):
            (tmp_path / info.removeprefix("python file=")).write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {"__name__": "example"}
    for block in blocks(page, "python runnable"):
        exec(compile(block, name(page), "exec"), namespace)
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.mark.slow
def test_python_of_the_readme_asks_a_model(tmp_path, monkeypatch):
    """On the tiny base, which writes no verdict: everything works up to `repair`, which refuses what it wrote."""
    from PIL import Image

    from spatial_edit_reward import ParseFailure, Spec, save_spec

    block = next(block for block in blocks(ROOT / "README.md", "python") if "open_backend" in block)
    model = tmp_path / "runs" / "tiny" / "merge"
    model.mkdir(parents=True)
    for file in BASE.iterdir():
        (model / file.name).symlink_to(file)
    pixels = {"min": 256, "max": 4096, "multiple": 16}
    save_spec(Spec(pixels=pixels, max_new_tokens=16), model)
    for file in ("source.png", "edited.png"):
        Image.new("RGB", (96, 64), "gray").save(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParseFailure, match="beyond repair"):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.slow
def test_python_of_the_readme_trains(tmp_path):
    """The lines train one step on the tiny base; only the options that a CPU needs are added."""
    from datasets import Dataset

    block = next(block for block in blocks(ROOT / "README.md", "python") if "GRPOTrainer" in block)
    options = "use_cpu=True, bf16=False, report_to='none', max_steps=1, max_completion_length=8"
    block = block.replace('output_dir="run"', f"output_dir={str(tmp_path / 'run')!r}, {options}")
    row = {
        "prompt": [{"role": "user", "content": "Judge the edit."}],
        "task": "sc",
        "reference": {"edit_region": [{"bbox_2d": [125, 250, 406, 531]}], "score": [25, 20]},
    }
    namespace = {"model": str(BASE), "dataset": Dataset.from_list([row] * 8)}
    exec(compile(block, "README.md", "exec"), namespace)
    history = namespace["trainer"].state.log_history[-1]
    assert {history[f"rewards/{reward}/mean"] for reward in ("box_iou", "score_agreement", "format")} == {0.0}
