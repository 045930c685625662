import logging

import pytest
import sacrebleu

from wheels.data import writing_systems as scripts
from wheels.data.writing_systems import bleu_tokenizer, spaced
from wheels.metrics import score, sentence_scores, sentence_statistics, signature
from wheels.output.notices import warn_once

NEAR = {
    "Chinese": ("我今天去学校上课了", "我今天去学校上课", "zh"),
    "Japanese": ("私は今日学校に行きました", "私は今日学校へ行きました", "char"),
    "Korean": ("나는 오늘 학교에 갔다", "나는 오늘 학교로 갔다", "char"),
    "Thai": ("วันนี้ฉันไปโรงเรียนแล้ว", "วันนี้ฉันไปโรงเรียน", "char"),
    "Lao": ("ມື້ນີ້ຂ້ອຍໄປໂຮງຮຽນແລ້ວ", "ມື້ນີ້ຂ້ອຍໄປໂຮງຮຽນ", "char"),
    "Khmer": ("ថ្ងៃនេះខ្ញុំទៅសាលារៀនហើយ", "ថ្ងៃនេះខ្ញុំទៅសាលារៀន", "char"),
    "Burmese": ("ဒီနေ့ကျွန်တော်ကျောင်းသွားခဲ့တယ်", "ဒီနေ့ကျွန်တော်ကျောင်းသွားတယ်", "char"),
    "Tibetan": ("བོད་ཡིག་ནི་ཡག་པོ་འདུག", "བོད་ཡིག་ནི་ཡག་པོ་རེད", "char"),
}


@pytest.fixture(autouse=True)
def no_mecab(monkeypatch):
    """Whether the packages of words are installed is no matter of the tests."""
    monkeypatch.setattr(scripts, "find_spec", lambda name: None)
    warn_once.cache_clear()


@pytest.mark.parametrize("language", NEAR)
def test_near_texts_without_spaces_score_as_with_sacrebleus_fitting_tokenizer(language):
    hypothesis, reference, tokenizer = NEAR[language]
    got = score("bleu", [hypothesis], [reference])
    assert got.value == sacrebleu.corpus_bleu([hypothesis], [[reference]], tokenize=tokenizer).score > 50
    assert f"|tok:{tokenizer}|" in got.signature and got.signature == signature("bleu", [reference])
    assert sentence_scores("bleu", [hypothesis], [reference])[0] > 50
    assert sentence_statistics("bleu", [hypothesis], [reference]).corpus() == got.value
    assert score("rouge1", [hypothesis], [reference]).value >= 75
    # Negative control: the default tokenizer sees one word.
    if language != "Korean":
        assert sacrebleu.corpus_bleu([hypothesis], [[reference]]).score == 0


@pytest.mark.parametrize(
    "text",
    ["Ein Hund läuft.", "Привет мир", "हिन्दी में", "مرحبا بالعالم", "שלום עולם", "Xin chào các bạn", "", "5 €", "Ελλάδα"],
)
def test_words_with_spaces_keep_the_default_tokenizer(text):
    assert bleu_tokenizer([text, "and English"]) == bleu_tokenizer([text]) == "13a"


def test_a_name_in_another_script_changes_nothing_and_much_of_it_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert (
            bleu_tokenizer(["The word 東京 means the capital in the east of Japan, as everybody there knows."]) == "13a"
        )
        assert caplog.text == ""
        assert bleu_tokenizer(["One line of English.", "Another one.", "我今天去学校"]) == "13a"
    assert "a sentence counts as one word" in caplog.text


def test_the_packages_of_words_are_used_where_they_are(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        assert bleu_tokenizer([NEAR["Japanese"][1]] * 2) == bleu_tokenizer([NEAR["Japanese"][1]]) == "char"
    assert caplog.text.count('pip install "sacrebleu[ja]"') == 1
    monkeypatch.setattr(scripts, "find_spec", lambda name: object())
    assert bleu_tokenizer([NEAR["Japanese"][1]]) == "ja-mecab"
    assert bleu_tokenizer([NEAR["Korean"][1]]) == "ko-mecab"
    assert bleu_tokenizer([NEAR["Chinese"][1]]) == "zh"


def test_letters_of_south_east_asia_stand_alone_with_their_marks():
    assert spaced("ไป5 baht").split() == ["ไ", "ป", "5", "baht"]
    assert spaced("ที่").split() == ["ที่"]
    assert spaced("Übung 東京") == "Übung 東京"
