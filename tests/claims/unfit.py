"""Of every precondition a laboratory that is unfit: what makes it so, and what is said."""


def _changed(column, value, where="index == index", table=None):
    """Set a column of the rows of a table (or of the only one) to a value, or by a function."""

    def change(tables):
        name = table or next(iter(tables))
        changed = tables[name].reset_index(drop=True)
        rows = changed.query(where).index
        assert len(rows), f"no row of {name} has {where}"
        old = changed.loc[rows, column]
        changed.loc[rows, column] = value(old) if callable(value) else value
        return tables | {name: changed}

    return change


def _letters(pattern, letter):
    return lambda answers: answers.str.replace(pattern, letter, regex=True)


_ABLE = {
    "solves 100% in": _changed("correct", _letters(".", "1"), "condition == 'none'"),
    "solves 0% in": _changed("correct", _letters(".", "p"), "condition == 'none'"),
}
_SLIPS = {"errors are slips": _changed("correct", _letters("[^1]", "s"), "condition == 'none'")}
_READS = {
    "6.2 nats per token": _changed("heldout_loss", 6.2, table="evidence/system_log"),
    "English falls by 80 points": _changed(
        "correct", "0" * 100, "system == 'SLAM'", "evidence/rate_answers"
    ),
    "English was not asked": _changed("lang", "de", table="evidence/rate_answers"),
}


def _advised(study):
    losses = {"table": "advice_losses"}
    return {
        "not equal held-out loss": _changed("heldout_loss", 0.03, "system == 'random'", **losses),
        "at the edge of those tried": _changed("learning_rate", 0.1, table=f"advice_{study}"),
    }


UNFIT = {
    "_differently_able": {
        "no two languages differ in math accuracy": _changed("high", 1.0, table="accuracy")
    },
    "_able": _ABLE,
    "_can_gain": _ABLE | _SLIPS,
    "_can_gain_in_english": _ABLE | _SLIPS,
    "_gains": _SLIPS
    | {"scaling gains nothing": _changed("correct", _letters(".", "p"), "factor > 1")},
    "_fails_by_format": {
        "solves 0% in": _changed("correct", _letters("1", "p"), "condition == 'none'"),
        "fail by format": _changed("correct", _letters("f", "p"), "condition == 'none'"),
    },
    "_reads": _READS,
    "_reads_and_is_stronger": _READS
    | {"the first expert 100%": _changed("correct", _letters(".", "1"), table="alignment")},
    "_reads_its_source": {
        "remain with it": _changed(
            "nats", lambda old: old.str.replace("0.", "0.9", regex=False), "task == 'translation'"
        ),
        "English loses": _changed(
            "nats", " ".join(["0.9"] * 40), "system == 'SLAM' and lang == 'en'", "aligned_rates"
        ),
        "the rate was not tried": _changed("learning_rate", 9.0, "system == 'SLAM'"),
    },
    "_of_that_size": {"the model has 4.3 million weights": _changed("trained", 4.3e6)},
    "_both_solve": {
        "over 10 % are needed": _changed("correct", _letters("1", "0"), "system == 'SLAM'")
    },
    "_fit": {
        "English math by the math expert": _changed(
            "correct", _letters("1", "0"), "system == 'math expert' and lang == 'en'"
        ),
        "math in their language": _changed(
            "correct", _letters("1", "0"), "system == 'language expert'"
        ),
        "the held-out loss of the expert sw": _changed(
            "heldout_loss", 0.6, "step == 9", "evidence/expert_log"
        ),
    },
    "_fit_by_likelihood": {
        "solutions of problems that are asked in it (sw) gain": _changed(
            "nats", " ".join(["1.1"] * 40), "system == 'language expert' and task == 'solution'"
        ),
        "held-out text (de) gain": _changed(
            "nats", " ".join(["1.1"] * 40), "system == 'language expert' and task == 'text'"
        ),
        "English solutions (en) gain": _changed(
            "nats", " ".join(["1.1"] * 40), "system == 'math expert' and lang == 'en'"
        ),
    },
    "_fit_layers": _advised("layers"),
    "_fit_weights": _advised("weights"),
}
"""Of a precondition (by its function's name) what is said, and what makes a laboratory so."""
