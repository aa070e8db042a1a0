"""Every file is UTF-8, whatever the locale: no text is read or written in the locale's encoding."""

import ast
import json
import subprocess
import sys

import pytest
import yaml

from tests.conftest import BASE, ROOT, quiet
from tests.test_layers import ORDER

# A locale in which the one encoding is ASCII, as Python 3.6 had it: what depends on the locale fails on the first umlaut.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
PROMPT = "Beurteile die \u00c4nderung: \u628a\u676f\u5b50\u53d8\u6210\u84dd\u8272 $instruction"


def run(*arguments, **options):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env={**quiet(), **ASCII}, **options)


def names_no_encoding(call):
    """Whether a call of a function that reads or writes text leaves its encoding to the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    constants = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    is_text = {
        "read_text": not call.args,
        "write_text": True,
        "open": (getattr(call.func, "id", None) == "open" and len(call.args) == 1)
        or bool({"r", "w", "a", "x"} & set(map(str, constants))),
        "NamedTemporaryFile": "w" in constants,
        "run": any(keyword.arg == "text" for keyword in call.keywords),
    }
    return is_text.get(name, False) and not any(keyword.arg == "encoding" for keyword in call.keywords)


@pytest.mark.parametrize("folder", [*ORDER, "docs"])
def test_every_text_is_read_and_written_as_utf_8(folder):
    for file in (ROOT / folder).rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert [f"{file}:{call.lineno}" for call in calls if names_no_encoding(call)] == []


def test_rewards_of_a_chinese_verdict_are_printed_in_any_locale():
    text = "\u753b\u9762\u6574\u4f53\u81ea\u7136\uff0c\u6ca1\u6709\u660e\u663e\u7684\u5931\u771f\u3002"
    verdict = json.dumps({"reasoning": text, "score": [18, 22]}, ensure_ascii=False)
    line = {"task": "pq", "completion": verdict, "reference": {"edit_region": None, "score": [18, 22]}}
    done = run("rewards_fn", "score", "-", input=json.dumps(line, ensure_ascii=False).encode())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completion"] == verdict


def test_the_data_stage_keeps_prompt_and_rows_in_any_locale(tmp_path):
    """An umlaut of the recipe's prompt trained as two other letters under ISO 8859-1."""
    from pyarrow import parquet

    recipe = tmp_path / "data.yaml"
    content = {
        "output_dir": str(tmp_path / "data"),
        "synthetic_groups": {"train": 2},
        "prompts": {"sc": PROMPT},
        "pixels": {"min": 256, "max": 4096, "multiple": 16},
        "max_new_tokens": 320,
        "tokenizer": str(BASE),
        "processes": 1,
    }
    recipe.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    done = run("data", "--config", recipe)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "data" / "verdict.json").read_bytes())["prompts"]["sc"] == PROMPT
    assert len(parquet.read_table(tmp_path / "data" / "train.parquet", columns=["id"])) == 16
