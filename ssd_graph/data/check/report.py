"""What folder.py found, as text for a terminal."""

from collections.abc import Sequence

from ssd_graph.data.check import problems as p
from ssd_graph.data.check.folder import SplitCheck
from ssd_graph.data.check.problems import Problem, printable

_WIDTH = 100
_NAME_LENGTH = 20


def report(checks: Sequence[SplitCheck]) -> str:
    """The problems of each split, the boxes by class, and a verdict in the last line."""
    lines = [line for check in checks for line in _split_lines(check)]
    lines += _histogram(checks)
    problems = [problem for check in checks for problem in check.problems]
    if not problems:
        return "\n".join([*lines, "verdict: clean"])
    total = sum(problem.count for problem in problems)
    mendable = [c.split for c in checks if c.cleaned and {q.kind.fix for q in c.problems} - {p.CANNOT_FIX, p.KEPT}]
    advice = f"; --split {mendable[0]} --fix OUT.json writes annotations without them" if mendable else ""
    return "\n".join([*lines, f"verdict: {_plural(total, 'finding')} of {_plural(len(problems), 'kind')}{advice}"])


def fix_report(check: SplitCheck) -> str:
    """What `write_cleaned` does about each problem."""
    if not check.problems:
        return "nothing had to be changed"
    lines = [f"  {problem.count:>9,}  {problem.kind.name}: {problem.kind.fix}" for problem in check.problems]
    assert check.cleaned is not None
    images, annotations = (_plural(len(check.cleaned[name]), name[:-1]) for name in ("images", "annotations"))
    return "\n".join(["changed:", *lines, f"left: {images}, {annotations}"])


def _split_lines(check: SplitCheck) -> list[str]:
    lines = [f"{check.split}: {check.annotation_file}"]
    if check.cleaned is not None:
        images, boxes = _plural(check.num_images, "image"), _plural(sum(check.num_boxes), "box", "boxes")
        headers = " (headers only)" if check.quick else ""
        lines.append(f"  {images}{headers}, {boxes}, {check.num_crowd:,} of them crowd")
    if check.num_without_boxes:
        lines.append(
            f"  {_plural(check.num_without_boxes, 'image')} without boxes: training and scoring leave them out"
        )
    if check.num_tiny:
        lines.append(f"  {_plural(check.num_tiny, 'box', 'boxes')} of at most a pixel: bbox counts pixels")
    if check.num_unlisted:
        lines.append(f"  {_plural(check.num_unlisted, 'file')} that the annotations do not name: never read")
    return [*lines, *problem_lines(check.problems), ""]


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Each problem with its number, what becomes of it, and its examples."""
    width = max((len(problem.kind.name) for problem in problems), default=0)
    lines: list[str] = []
    for problem in problems:
        lines.append(f"  {problem.count:>9,}  {problem.kind.name:{width}}  {problem.kind.effect}")
        lines += (f"{'':15}{example}" for example in problem.examples)
    return lines


def _histogram(checks: Sequence[SplitCheck]) -> list[str]:
    """Boxes by class, as many classes a line as fit."""
    names = {number: printable(name, _NAME_LENGTH) for check in checks for number, name in check.categories}
    if not names:
        return []
    counts = [dict(zip((i for i, _ in check.categories), check.num_boxes, strict=True)) for check in checks]
    columns = [[f"{count.get(number, 0):,}" for number in names] for count in counts]
    widths = [max(map(len, column)) for column in columns]
    name_width = max(map(len, names.values()))
    cells = [
        " ".join([f"{name:{name_width}}", *(f"{c:>{w}}" for c, w in zip(numbers, widths, strict=True))])
        for name, *numbers in zip(names.values(), *columns, strict=True)
    ]
    num_columns = max(1, (_WIDTH + 1) // (len(cells[0]) + 3))
    num_rows = -(-len(cells) // num_columns)
    rows = ["   ".join(cells[row::num_rows]).rstrip() for row in range(num_rows)]
    return [f"boxes by class ({', '.join(check.split for check in checks)}):", *("  " + row for row in rows), ""]


def _plural(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
