"""Recipes that are malformed, hostile or only unusual."""

import pytest

from expunge.config.load import load_recipe

GOOD = """\
name: mine
model: {name: ./model}
data: {name: files, forget: {path: forget.jsonl}, retain: {path: retain.jsonl}}
method: npo
train: {steps: 1, lr: 1e-3}
"""


def bomb(levels: int = 9, width: int = 10) -> str:
    """Return a list that doubles its size by aliases, `width` ** `levels` values in all."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merge_bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def alias_chain(length: int = 3000) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, length))


BROKEN = {
    "alias bomb": (bomb(), "aliases"),
    "alias bomb below the name": ("name: &a [x]\n" + bomb(), "aliases"),
    "alias bomb in a mapping": (bomb().replace("[x]", "{x: 1}"), "aliases"),
    "merge bomb": (merge_bomb(), "aliases"),
    "alias to itself": ("name: &a [*a]\n", "refers to itself"),
    "alias to a parent": ("name: &a {b: {c: *a}}\n", "refers to itself"),
    "alias without anchor": ("name: *nothing\n", "undefined alias"),
    "chain of aliases": (alias_chain(), "aliases"),
    "deep list": ("name: " + "[" * 5000, "nested too deeply"),
    "deep mapping": ("name: " + "{a: " * 3000, "nested too deeply"),
    "deep indentation": ("\n".join(" " * i + "a:" for i in range(600)), ""),
    "duplicate key": (GOOD + "name: other\n", "duplicate key 'name'"),
    "duplicate key in a section": ("train: {lr: 1, lr: 2}\n", "duplicate key 'lr'"),
    "duplicate key by quotes": ("'name': a\n\"name\": b\n", "duplicate key"),
    "python object": ("name: !!python/object:os.system {}\n", "tag"),
    "python apply": ("name: !!python/object/apply:os.system ['touch pwned']\n", "tag"),
    "python name": ("name: !!python/name:os.system\n", "tag"),
    "python module": ("name: !!python/module:os\n", "tag"),
    "python new": ("name: !!python/object/new:os.system ['touch pwned']\n", "tag"),
    "python tuple": ("name: !!python/tuple [1]\n", "tag"),
    "unknown tag": ("name: !secret x\n", "tag"),
    "tag of another shape": ("name: !!map word\n", "tag"),
    "list tag before a word": ("name: !!seq word\n", ""),
    "set tag before a word": ("name: !!set word\n", ""),
    "ordered map of words": ("name: !!omap word\n", ""),
    "pairs of words": ("name: !!pairs [word]\n", ""),
    "int tag before a word": ("name: !!int word\n", "not a valid int"),
    "int tag before nothing": ("name: !!int ''\n", "not a valid int"),
    "float tag before a word": ("name: !!float word\n", "not a valid float"),
    "bool tag before a word": ("name: !!bool word\n", "not a valid bool"),
    "timestamp tag before a word": ("name: !!timestamp word\n", "not a valid timestamp"),
    "binary tag before a word": ("name: !!binary é\n", ""),
    "month of 99": ("name: 2001-99-99\n", "not a valid timestamp"),
    "hour of 99": ("name: 2001-01-01 99:00:00\n", "not a valid timestamp"),
    "number of 5,000 digits": (f"train: {{lr: {'9' * 5000}}}\n", "not a valid int"),
    "key that is a list": ("? [a, b]\n: c\n", "key"),
    "key that is a mapping": ("? {a: b}\n: c\n", "key"),
    "tab as indentation": ("train:\n\tlr: 1\n", "line 2"),
    "unclosed bracket": ("train: [1, 2\n", "line"),
    "unclosed brace": ("train: {lr: 1\n", "line"),
    "unclosed quote": ("name: 'mine\n", "line"),
    "two colons": ("name: a: b\n", "line 1"),
    "two documents": ("name: a\n---\nname: b\n", "document"),
    "control character": ("name: a\x07\n", "special characters"),
    "NUL": ("name: a\x00b\n", "special characters"),
    "escape code": ("name: \x1b[31mred\n", "special characters"),
    "directive of another version": ("%YAML 9.9\n---\nname: a\n", ""),
    "empty": ("", "keys and values"),
    "spaces": ("  \n \n", "keys and values"),
    "comment only": ("# name\n", "keys and values"),
    "list": ("- name\n", "keys and values"),
    "word": ("name\n", "keys and values"),
    "number": ("3\n", "keys and values"),
    "null": ("null\n", "keys and values"),
    "JSON of a list": ("[1, 2]", "keys and values"),
    "Latin-1": ("name: Zürich\n".encode("latin-1"), "UTF-8"),
    "UTF-16": ("name: a\n".encode("utf-16"), "UTF-8"),
    "random bytes": (bytes(range(256)), "UTF-8"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "UTF-8"),
    "line of 10 MB": ("name: " + "x" * 10_000_000, "largest size"),
    "a million keys": ("a: 1\n" * 1_000_000, "largest size"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(1500)), "there is no setting"),
}
"""Name -> content, and words of the message."""

WRONG_VALUES = {
    "name: null": "name",
    "name: [a]": "name",
    "name: {a: b}": "name",
    "name: ''": "name",
    "name: ../outside": "name",
    "name: /absolute": "name",
    "name: a/b": "name",
    "name: .hidden": "name",
    "name: 'a\\nb'": "name",
    'name: "\\e[31m"': "name",
    "name: '<script>'": "name",
    "model: null": "model",
    "model: word": "model",
    "model: []": "model",
    "model: {name: 3}": "model.name",
    "model: {name: [a]}": "model.name",
    "model: {nmae: a}": "model.nmae",
    "data: word": "data",
    "data: null": "data",
    "data: {name: unknown}": "data.name",
    "data: {forget: a}": "data.name",
    "data: {name: [1]}": "data",
    "data: {name: files, forget: 3, retain: 4}": "data.forget",
    "method: {}": "method",
    "method: []": "method",
    "method: 3": "method",
    "method: {name: nothing}": "nothing",
    "method: {name: ../x.py}": "x.py",
    "method: {name: npo, beta: word}": "beta",
    "method: {name: npo, beta: [1]}": "beta",
    "method: {name: npo, beta: .nan}": "beta",
    "method: {name: npo, beta: .inf}": "beta",
    "method: {name: npo, beta: -1}": "beta",
    "train: word": "train",
    "train: [1]": "train",
    "train: {lr: word}": "train.lr",
    "train: {lr: .nan}": "train.lr",
    "train: {steps: 1, lr: .inf}": "train.lr",
    "train: {lr: -1}": "train.lr",
    "train: {steps: 1, lr: 1e999}": "train.lr",
    "train: {steps: 1.5}": "train.steps",
    "train: {steps: -3}": "train.steps",
    "train: {lr: 1, steps: true}": "steps is a number",
    "train: {steps: '1; rm'}": "train.steps",
    "train: {steps: 2001-01-01}": "train.steps",
    "1: 2": "1",
    "true: 2": "",
    "null: 2": "",
    "1.5: 2": "1.5",
    "2001-01-01: 2": "2001",
    '"\\e[31mred": 1': "red",
    "__class__: 1": "__class__",
    "evaluate: {benchmarks: [nothing]}": "nothing",
    "evaluate: {benchmarks: {a: b}}": "evaluate.benchmarks",
    "evaluate: {benchmarks: 3}": "evaluate.benchmarks",
    "prompt: {style: [1]}": "prompt.style",
    "prompt: {template: word}": "prompt.template",
}
"""A line that replaces the one with its key in a good recipe -> words of the message."""

HARMLESS = {
    "byte order mark": "\ufeff" + GOOD,
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "one alias": GOOD.replace("{path: forget.jsonl}", "&f {path: forget.jsonl}").replace("{path: retain.jsonl}", "*f"),
    "document marks": f"---\n{GOOD}...\n",
    "description in other scripts": GOOD + "description: 'שלום 👩‍👩‍👧 日本語'\n",
    "description with marks": GOOD + "description: '<script>alert(1)</script> ]]> {{ 7*7 }}'\n",
    "long comment": GOOD + "# " + "x" * 100_000 + "\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_recipe(name, tmp_path, refused):
    content, words = BROKEN[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: load_recipe(path), str(path), words)


@pytest.mark.parametrize("line", WRONG_VALUES)
def test_recipe_with_a_wrong_value(line, tmp_path, refused):
    path = tmp_path / "mine.yaml"
    key = line.partition(":")[0]
    path.write_text("".join(f"{old}\n" for old in GOOD.splitlines() if not old.startswith(f"{key}:")) + line + "\n")
    refused(lambda: load_recipe(path), str(path), WRONG_VALUES[line])


@pytest.mark.parametrize("name", HARMLESS)
def test_unusual_but_valid_recipe(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(HARMLESS[name].encode())
    assert load_recipe(path).name == "mine"


OVERRIDES = {
    "=3": "=3",
    "train.lr": "train.lr",
    "train.lr.x=3": "train.lr",
    "train.lr=[": "train.lr",
    "train.lr=!!python/object:os.system {}": "train.lr",
    "train.lr=2001-99-99": "train.lr",
    "train.lr={a: &a [*a]}": "train.lr",
    "train.steps=" + "9" * 5000: "train.steps",
    "train.steps=" + "[" * 5000: "train.steps",
    "..=3": "",
    "train..lr=3": "train",
    "evaluate.benchmarks.99999999999999999999=tofu": "evaluate.benchmarks",
    "name=../x": "name",
    "name=\x1b[31m": "name",
    "name=\ud800": "name",
    "name=\x00": "name",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_malformed_override(override, tmp_path, refused):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    refused(lambda: load_recipe(path, [override]), OVERRIDES[override])


def test_alias_bomb_on_the_command_line(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text(bomb())
    outcome = cli("check", "mine.yaml")
    assert outcome.code == 2
    assert "aliases" in outcome.err
    assert "Traceback" not in outcome.err


def test_terminal_codes_in_a_recipe_do_not_reach_the_terminal(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD + '"\\e]0;owned\\a\\u202ered": 1\n')
    outcome = cli("check", "mine.yaml")
    assert outcome.code == 2
    assert "\\u001b]0;owned\\u0007\\u202ered" in outcome.err
    assert not {"\x1b", "\x07", "\u202e"} & set(outcome.err)
