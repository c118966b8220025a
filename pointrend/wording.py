"""Numbers with their nouns, in messages."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, which has a regular plural: "1 image", "2 images", "1203 classes"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
