import pytest

from pointrend.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1203, "class", "1203 classes"), (1, "class", "1 class")],
)
def test_numbers_have_their_nouns(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
