"""A review set made up: films that are liked and films that are not, in words that say so."""

import json
import random
from pathlib import Path

GOOD = ("wonderful", "great", "lovely", "brilliant", "charming", "superb", "touching", "delightful")
BAD = ("awful", "dull", "terrible", "boring", "clumsy", "dreadful", "tedious", "lazy")
THINGS = ("film", "movie", "story", "plot", "acting", "script", "music", "ending", "cast")
OPENINGS = ("I watched this", "This", "The whole", "We saw the", "My friends liked the", "Nobody expected the")


def review(good: bool, random_: random.Random) -> str:
    """Two to five sentences, of which some say the opposite."""
    own = GOOD if good else BAD
    sentences = []
    for _ in range(random_.randint(2, 5)):
        first = random_.choice(own if random_.random() < 0.9 else GOOD + BAD)
        opening, thing = random_.choice(OPENINGS), random_.choice(THINGS)
        sentences.append(f"{opening} {thing} and it was {first}, really {random_.choice(own)}.")
    return " ".join(sentences)


def write_reviews(path: Path, count: int = 600, a_film: int = 6) -> Path:
    """`count` reviews, half of them good, `a_film` of each film."""
    random_ = random.Random(0)
    rows = [
        {"text": review(n % 2 == 1, random_), "label": ("neg", "pos")[n % 2], "movie": f"film {n // a_film}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_class_folders(path: Path, count: int = 60) -> Path:
    """The same as aclImdb has them."""
    random_ = random.Random(0)
    for n in range(count):
        folder = path / "train" / ("neg", "pos")[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}_7.txt").write_text(review(n % 2 == 1, random_), encoding="utf-8")
    return path
