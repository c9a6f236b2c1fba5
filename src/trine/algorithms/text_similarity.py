"""How alike two texts are, by how many characters would have to change."""


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and replacements of one character that lead from one to the other (Levenshtein 1966).

    edit_distance("kitten", "sitting")  # 3
    """
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for number, character in enumerate(first, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (character != other))
    return row[-1]


def edit_similarity(first: str, second: str) -> float:
    """1 - edit distance / length of the longer: 1 for equal texts, two empty ones included, and 0 for nothing alike.

    edit_similarity("return x", "return y")  # 0.875
    """
    longest = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longest if longest else 1.0
