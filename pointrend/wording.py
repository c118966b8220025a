"""Numbers with their nouns, in messages."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "2 images", "1,203 classes".

    Args:
        number: how many there are.
        noun: in the singular.
        plural: the noun's plural, unless it ends in -s, or in -es after an s.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or noun + ('es' if noun.endswith('s') else 's')}"
