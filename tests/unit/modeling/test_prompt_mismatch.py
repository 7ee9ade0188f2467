"""A retain model that was measured with another prompt is refused with both prompts in words."""

import pytest

from expunge.errors import IncompatibleError
from expunge.modeling.opening import check_same_settings


def settings(prompt, text=None):
    return {"prompt": prompt, **({} if text is None else {"prompt_text": text})}


def test_prompts_are_compared_in_words():
    ours = settings("aa", "<s>Today Date: 10 Mar 2025\nQuestion: Who?\nAnswer:")
    theirs = settings("bb", "<s>Today Date: 09 Mar 2025\nQuestion: Who?\nAnswer:")
    with pytest.raises(IncompatibleError, match=r"another prompt: '.*09 Mar 2025.*', here it is '.*10 Mar 2025.*'"):
        check_same_settings(ours, theirs)
    with pytest.raises(IncompatibleError, match="another prompt: the same text in other tokens"):
        check_same_settings(ours, {**ours, "prompt": "bb"})


def test_records_without_the_text_show_hashes_and_equal_prompts_pass():
    with pytest.raises(IncompatibleError, match="another prompt: bb, here it is aa"):
        check_same_settings(settings("aa", "text"), settings("bb"))
    check_same_settings(settings("aa", "text"), settings("aa"))
    check_same_settings(settings("aa"), {})
