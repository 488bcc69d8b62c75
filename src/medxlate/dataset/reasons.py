"""Why files cannot be used: the most frequent reasons, not the first file's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medxlate.base.errors import plural

MOST = 3  # reasons that a message names
NO_ROW = "has no row in column"
NO_NUMBER = "the label is not a number"
# By words of a reason, the most telling first. A table may list fewer files than there are on
# purpose, so that hint comes last.
_HINTS = {
    NO_NUMBER: "For classes, add --task classification.",
    "years: '": "If the ages are not in years, add --unit; otherwise correct the table.",
    "recipe": "Check --recipe, --window and --percentiles.",
    "SUV": "Check --recipe, --window and --percentiles.",
    "label": "Check --labels, --label and --file.",
    "patient": "Check --patient, --labels and --file.",
    "contradictory rows": "Check --labels, --file and --patient.",
    "not unique": "Check --labels, --file and --patient.",
}
_LAST = "Check --labels, --file and --patient."


def by_reason(failed: Mapping[str, str]) -> list[list[str]]:
    """Return the names of files in groups of one kind of reason, the largest group first.

    Reasons are of one kind where they agree before the first colon, but for numbers.
    """
    groups: dict[str, list[str]] = {}
    for name, reason in failed.items():
        kind = re.sub(r"\d+(\.\d+)?", "0", reason.partition(": ")[0])
        groups.setdefault(kind, []).append(name)
    return sorted(groups.values(), key=len, reverse=True)


def in_words(failed: Mapping[str, str]) -> str:
    """Return the most frequent reasons, each with its count and an example; no full stop."""
    groups = by_reason(failed)
    shown = []
    for names in groups[:MOST]:
        reason = failed[names[0]].rstrip(".")
        count = f"{len(names)} files, such as" if len(names) > 1 else "1 file,"
        shown.append(f"{count} {names[0]}: {reason}")
    if left := sum(map(len, groups[MOST:])):
        shown.append(
            f"{plural(left, 'more file')} for {plural(len(groups) - MOST, 'other reason')}"
        )
    return "; ".join(shown)


def hint_of(failed: Mapping[str, str]) -> str:
    """Return what to do about the most frequent reason that options can fix; "" without one."""
    reasons = [failed[names[0]] for names in by_reason(failed)]
    for reason in reasons:
        for words, hint in _HINTS.items():
            if words in reason and NO_ROW not in reason:
                return hint
    return _LAST if any(NO_ROW in reason for reason in reasons) else ""
