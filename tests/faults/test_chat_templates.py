"""Chat templates that loop, build endless texts, look into Python, or are only unusual."""

import copy
import threading
import time

import pytest

from expunge.config.recipe import Prompt
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.load import CHAT_TEMPLATE, load_tokenizer

MANY = "range(99999)"
START = "{% set n = namespace(t='x') %}"

EXPENSIVE = {
    "two nested loops": f"{{% for a in {MANY} %}}{{% for b in {MANY} %}}{{% endfor %}}{{% endfor %}}",
    "loops in loops": "{% for a in range(999) %}" * 4 + "x" + "{% endfor %}" * 4,
    "loops of a macro": f"{{% macro m() %}}{{% for a in {MANY} %}}{{% endfor %}}{{% endmacro %}}"
    f"{{% for a in {MANY} %}}{{{{ m() }}}}{{% endfor %}}",
    "doubled text": START + "{% for a in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    "added text": START + "{% for a in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}",
    "replaced text": "{% set n = namespace(t='x') %}{% for a in range(60) %}{% set n.t = n.t.replace('x', 'xx') %}"
    "{% endfor %}{{ n.t }}",
    "multiplied text": "{{ 'x' * 10000000000 }}",
    "multiplied list": "{{ [1] * 10000000000 }}",
    "padded text": "{{ 'x'.ljust(10000000000) }}",
    "centred text": "{{ 'x'|center(10000000000) }}",
    "wide format": "{{ '%10000000000d' % 1 }}",
    "wide format method": "{{ '{:10000000000}'.format(1) }}",
    "wide format filter": "{{ '%10000000000d'|format(1) }}",
    "indented text": "{{ 'x'|indent(10000000000, first=true) }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "hidden power": "{% set a = 10 %}{{ (a**a)**a**a }}",
    "power behind a tag": "{% generation %}{{ 10 ** 10 ** 10 }}{% endgeneration %}",
    "squared numbers": "{% set n = namespace(t=7) %}{% for a in range(60) %}{% set n.t = n.t * n.t %}{% endfor %}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "lorem ipsum": "{{ lipsum(n=100000000) }}",
}

FORBIDDEN = {
    "class of a text": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals by a filter": "{{ (raise_exception|attr('__globals__'))['os'] }}",
    "class by an index": "{{ ''['__class__'].__mro__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "joiner": "{{ joiner.__init__.__globals__.os }}",
    "namespace": "{{ namespace.__init__.__globals__.os }}",
    "format of attributes": "{{ '{0.__class__.__mro__}'.format('') }}",
    "self": "{{ self._TemplateReference__context.__class__ }}",
    "changed messages": "{{ messages.append(1) }}",
    "cleared message": "{{ messages[0].clear() }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
}

BROKEN = {
    "unknown tag": "{% system 'id' %}",
    "open loop": "{% for m in messages %}",
    "open expression": "{{ messages",
    "open text": "{{ 'x }}",
    "unknown filter": "{{ messages|shell }}",
    "unknown test": "{{ messages is evil }}",
    "undefined name": "{{ nothing.at.all }}",
    "undefined call": "{{ nothing() }}",
    "raised exception": "{{ raise_exception('no system messages, please') }}",
    "raised exception with codes": "{{ raise_exception('\x1b[31mred\x1b[0m') }}",
    "wrong index": "{{ messages[7].content }}",
    "division by zero": "{{ 1 // 0 }}",
    "huge range": "{{ range(1000000000)|list }}",
    "text minus number": "{{ 'x' - 1 }}",
    "huge number": "{{ 9" + "9" * 5000 + " }}",
    "call of a text": "{{ 'x'() }}",
    "wrong arguments": "{{ 'x'.replace(1) }}",
    "wrong format": "{{ '%d' % 'x' }}",
    "wrong date": "{{ strftime_now(3) }}",
    "deep brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "answers left out": "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
    "answers written twice": "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}",
    "nothing written": "{# nothing #}",
    "answers in capitals": "{% for m in messages %}{{ m['content']|upper|replace('A', '') }}{% endfor %}",
}

HARMLESS = {
    "ours": CHAT_TEMPLATE,
    "with loop controls": "{% for m in messages %}{% if loop.index0 > 9 %}{% break %}{% endif %}"
    + "{{ m['content'] }}|{% endfor %}",
    "with a tag": "{% for m in messages %}{% generation %}{{ m['content'] }}|{% endgeneration %}{% endfor %}",
    "with two stars in a text": "{% for m in messages %}**{{ m['role'] }}**: {{ m['content'] }}\n{% endfor %}",
    "with a short product": "{% for m in messages %}{{ '#' * 3 }} {{ m['content'] }}\n{% endfor %}",
    "with escape codes": "{% for m in messages %}\x1b[1m{{ m['content'] }}\x1b[0m\n{% endfor %}",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(str(tiny_model))


def encode(tokenizer, source):
    """Return the text and answer of a row that is encoded with a chat template."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = source
    template = Template(changed, Prompt(style="chat"), max_length=4096)
    row = template.encode("Where was she born?", "In Bern.")
    return template, row


@pytest.mark.parametrize("name", EXPENSIVE)
def test_template_that_needs_too_much(name, tokenizer, refused):
    started = time.process_time()
    message = refused(lambda: encode(tokenizer, EXPENSIVE[name]), "chat template")
    assert any(word in message for word in ("seconds", "memory", "powers", "without end"))
    assert time.process_time() - started < 9


def test_each_of_several_templates_is_checked(tokenizer, refused):
    sources = {"default": EXPENSIVE["power"], "tool_use": CHAT_TEMPLATE}
    refused(lambda: encode(tokenizer, sources), "powers")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_template_that_looks_into_python(name, tokenizer):
    """It is refused, or the name is undefined for it and it writes nothing of the answer."""
    with pytest.raises(IncompatibleError, match="chat template"):
        encode(tokenizer, FORBIDDEN[name])


@pytest.mark.parametrize("name", BROKEN)
def test_template_that_fails(name, tokenizer, refused):
    refused(lambda: encode(tokenizer, BROKEN[name]), "chat template")


@pytest.mark.parametrize("name", HARMLESS)
def test_unusual_but_valid_template(name, tokenizer):
    template, row = encode(tokenizer, HARMLESS[name])
    assert "In Bern." in template.tokenizer.decode(row.ids[row.answer_start :])


def test_time_is_limited_in_other_threads_too(tokenizer):
    problems = []

    def work():
        try:
            encode(tokenizer, EXPENSIVE["loops in loops"])
        except IncompatibleError as error:
            problems.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(problems) == 1
    assert "seconds" in problems[0]


def test_an_interrupted_template_leaves_nothing_behind(tokenizer):
    """After the limit, other code runs undisturbed and the same tokenizer works."""
    for _ in range(2):
        with pytest.raises(IncompatibleError):
            encode(tokenizer, EXPENSIVE["two nested loops"])
        finished = sum(1 for _ in range(2_000_000))
        assert finished == 2_000_000
    encode(tokenizer, CHAT_TEMPLATE)


def test_endless_template_on_the_command_line(cli, recipe_file, tiny_model, tmp_path):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(EXPENSIVE["two nested loops"])
    outcome = cli("run", recipe_file, f"model.name={model}", "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert "seconds" in outcome.err
    assert "Traceback" not in outcome.err
