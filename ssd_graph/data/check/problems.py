"""What can be wrong with a COCO folder: the kinds of problems, and a collection of findings."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

MAX_EXAMPLES = 3


class Kind(NamedTuple):
    """A sort of problem."""

    name: str
    effect: str
    """What training or scoring makes of it."""
    fix: str = "removed"
    """What becomes of it in the cleaned copy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """All findings of one kind."""

    kind: Kind
    count: int
    examples: tuple[str, ...]
    """Of the first MAX_EXAMPLES findings, printable."""


class Findings:
    """Problems in the order in which their kinds were first met."""

    def __init__(self) -> None:
        """Begin without any."""
        self._counts: Counter[Kind] = Counter()
        self._examples: defaultdict[Kind, list[str]] = defaultdict(list)

    def add(self, kind: Kind, example: object) -> None:
        """Count a finding; `example` says where it is."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < MAX_EXAMPLES:
            self._examples[kind].append(printable(example))

    def problems(self) -> list[Problem]:
        """One `Problem` for each kind found."""
        return [Problem(kind, number, tuple(self._examples[kind])) for kind, number in self._counts.items()]


def printable(value: object, limit: int = 100) -> str:
    """`value` as one line that does a terminal no harm: control characters escaped, a long end cut off."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


_REFUSED = "training and scoring refuse the file"
_LEFT_OUT = "training leaves these out"
_USED = "training uses these as they are"
_WITH_BOXES = "removed with its boxes"
CANNOT_FIX, KEPT = "cannot be mended here", "kept"

UNREADABLE = Kind("not a COCO instances file", _REFUSED, CANNOT_FIX)
NO_FOLDER = Kind("image folder missing", _REFUSED, CANNOT_FIX)
OTHER_CATEGORIES = Kind("train and val list different categories", "training refuses the two", CANNOT_FIX)
RELATIVE_BOXES = Kind("no box larger than a pixel: shares of the image?", _REFUSED, CANNOT_FIX)
NO_BOXES = Kind("no image with a box", _REFUSED, CANNOT_FIX)

BAD_CATEGORY = Kind("category without a usable id or name", _REFUSED)
REPEATED_CATEGORY = Kind("category id used again", _REFUSED)

BAD_IMAGE = Kind("image without a usable id, file name or size", _REFUSED, _WITH_BOXES)
REPEATED_IMAGE = Kind("image id used again", _REFUSED)
REPEATED_FILE = Kind("image file named again", "training uses it once for each entry", _WITH_BOXES)
FILE_OUTSIDE = Kind("file name that leaves the image folder", _REFUSED, _WITH_BOXES)
FOUND_BY_NAME = Kind("file name with a folder that is not there", "found by its last part", "name shortened")
NO_SIZE = Kind("image without width or height", _REFUSED, "size taken from the file")
MISSING = Kind("image file missing", "training stops there", _WITH_BOXES)
UNDECODABLE = Kind("image that cannot be decoded", "training stops there", _WITH_BOXES)
TURNED = Kind("image stored turned, by its EXIF orientation", "read as stored, unless --upright is given", KEPT)
WRONG_SIZE = Kind("image of another size than stated", "training stops there", _WITH_BOXES)

BAD_ANNOTATION = Kind("annotation without a usable image, category or box", _REFUSED)
UNKNOWN_IMAGE = Kind("annotation of an unknown image", _REFUSED)
UNKNOWN_CATEGORY = Kind("annotation of an unknown category", _REFUSED)
BOX_NOT_FINITE = Kind("box with NaN or infinity", _LEFT_OUT)
BOX_NEGATIVE = Kind("box of negative width or height", _LEFT_OUT)
BOX_EMPTY = Kind("box without area", f"{_LEFT_OUT}, scoring counts them as missed")
BOX_OUTSIDE = Kind("box outside its image", _USED)
BOX_OVER_EDGE = Kind("box over its image's edge", _USED, "clipped to the image")
EMPTY_FIELD = Kind(
    "area or iscrowd that is null, NaN, negative or too large", "read as if it were not there", "field removed"
)
_NOT_HERE = "no effect here; pycocotools alone "
ID_BAD = Kind("annotation id missing or no integer", _NOT_HERE + "fails or guesses", "given a new id")
ID_ZERO = Kind("annotation id 0", _NOT_HERE + "never counts a match with it", "given a new id")
ID_REPEATED = Kind("annotation id used again", _NOT_HERE + "takes one for the other", "given a new id")
