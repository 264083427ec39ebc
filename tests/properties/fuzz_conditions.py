"""Coverage-guided fuzzing of conditions.

Run ``python -m tests.properties.fuzz_conditions -max_total_time=300``. It needs atheris (``pip
install atheris``, 35 MB, so it is not a test requirement) and takes the options of libFuzzer. See
`tests.properties.conditions` for the checks of each text.
"""

from __future__ import annotations

import sys

WORDS = (
    "subject", "site", "dose", "visits", "height", "giant", "smoker", "`dose (mg)`", "`in`",
    " == ", " != ", " < ", " <= ", " > ", " >= ", " in ", " not in ", " is null", " is not null",
    " and ", " or ", "not ", " & ", " | ", "~", "(", ")", "[", "]", ",", "'s1'", '"007"', "1",
    "-2.5", "1e9", "true", "None", "True", "'", "\\u0041", ".__class__", "()", "__import__('os')",
    "@", "=",
)  # fmt: skip
"""Tokens of half of the inputs: random bytes alone rarely form a condition."""

TOLD_EVERY = 5_000


def main() -> None:
    """Generate texts until the time is over, or one violates an invariant."""
    import atheris

    import engine  # noqa: F401 - the rest of it is not watched

    for name in [name for name in sys.modules if name.startswith("engine.conditions")]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["engine.conditions"]):
        from tests.properties.conditions import check
    counts = {"texts": 0, "taken": 0, "taken by pandas too": 0}

    def one_input(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        if given.ConsumeBool():
            pieces = []
            while given.remaining_bytes() and len(pieces) < 40:
                pieces.append(WORDS[given.ConsumeIntInRange(0, len(WORDS) - 1)])
            text = "".join(pieces)
        else:
            text = given.ConsumeUnicode(sys.maxsize)
        taken, both = check(text)
        counts["texts"] += 1
        counts["taken"] += taken
        counts["taken by pandas too"] += both
        if counts["texts"] % TOLD_EVERY == 0:  # libFuzzer exits without a final report
            print(counts, file=sys.stderr, flush=True)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
