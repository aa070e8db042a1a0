"""What makes a verdict valid, in any language."""

import json

import pytest

from rewards_fn import format
from spatial_edit_reward import failed_checks, parse

SENTENCES = {
    "English": "The cup is blue now.",
    "Chinese": "按照要求，杯子变成了蓝色。",
    "a short Chinese one": "没有失真",
    "Japanese": "カップが青くなりました。",
    "Thai": "ถ้วยเปลี่ยนเป็นสีน้ำเงินแล้ว",
    "Khmer": "ពែងបានក្លាយជាពណ៌ខៀវ",
    "Korean": "컵이 이제 파란색입니다.",
    "Hindi": "कप अब नीला है।",
    "Arabic": "الكوب أزرق الآن.",
    "Russian": "Чашка теперь синяя.",
}


def verdicts(first, second):
    regions = [{"id": 0, "label": "cup", "bbox_2d": [1, 2, 3, 4]}]
    sc = {"edit_region": regions, "reasoning": f"<|bbox_0|>{first}<|global|>{second}", "score": [20, 5]}
    pq = {"reasoning": second, "score": [20, 5]}
    return [json.dumps(one, ensure_ascii=False) for one in (sc, pq)]


@pytest.mark.parametrize("language", SENTENCES)
def test_a_verdict_in_any_language_is_valid_and_earns_the_whole_format_reward(language):
    sc, pq = verdicts(SENTENCES[language], SENTENCES[language])
    assert failed_checks(parse(sc, "sc")) == failed_checks(parse(pq, "pq")) == []
    assert format([sc, pq], ["sc", "pq"]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "text", ["", "，。、", "蓝色", "ถ้ว", "컵 색", "two words", ". - !", "\u0e34\u0e35\u0e36\u0e37"]
)
def test_less_than_three_words_say_nothing(text):
    sc, pq = verdicts(SENTENCES["English"], text)
    assert failed_checks(parse(sc, "sc")) == ["tags_followed_by_words"]
    assert failed_checks(parse(pq, "pq")) == ["reasoning_not_empty"]
