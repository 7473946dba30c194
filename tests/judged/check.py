"""Where letters and judgement disagree: ``python -m tests.judged.check``.

A text that has the letters of a query but isn't judged to answer it must be in its `lookalikes`;
one that answers it without having the letters, in its `variants`. Whatever is in neither was
overlooked.
"""

from __future__ import annotations

from tests.judged.judged import SETS, Query, Set, literal_matches, queries


def overlooked(query: Query, of: Set = "main") -> tuple[list[str], list[str]]:
    """Texts with the letters that nobody decided about, and answers that unexpectedly lack them."""
    literal = literal_matches(query.q, of)
    undecided = set(literal) - set(query.relevant) - set(query.lookalikes)
    unlike = set(query.relevant) - set(literal) - set(query.variants)
    return sorted(undecided), sorted(unlike)


def main() -> None:
    for of in SETS:
        for query in queries(of):
            undecided, unlike = overlooked(query, of)
            if undecided or unlike:
                print(f"{of}, {query.q}: undecided {undecided}, without the letters {unlike}")  # noqa: T201


if __name__ == "__main__":
    main()
