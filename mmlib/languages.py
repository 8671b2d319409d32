"""What a language needs to be prompted and graded in."""

import re
from dataclasses import dataclass

_NUMBER = r"(-?\d[\d.,\u00a0\u202f]*)"


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language: its labels and phrases in the papers' prompts, and how its answers are read.

    The phrases of en, de and hi are those of the calibration files of arXiv 2606.18453 (Appendix A
    as far as its repository shows it). `exemplar` is the record's own proof: `answer_pattern` must
    find `exemplar_answer` in it.
    """

    code: str
    """ISO 639-1 code."""
    name: str
    native_name: str
    script: str
    """ISO 15924 code of the script."""
    question_label: str
    answer_label: str
    step_phrase: str
    """The chain-of-thought cue that opens the answer."""
    closing: str
    """The closing phrase, with `{answer}` where the number stands."""
    answer_pattern: str
    """Regular expression of the closing phrase; group 1 is the number (strict extraction)."""
    single_line: bool
    """Whether the published calibration text has no line breaks (lost in machine translation)."""
    exemplar: str
    exemplar_answer: str

    def word_problem(self, question: str, solution: str, answer: str) -> tuple[str, str]:
        """Lay out a word problem as in the published calibration files.

        Returns:
            Prompt (question and chain-of-thought cue) and response (solution and closing phrase);
            their concatenation is the calibration text.
        """
        gap = " " if self.single_line else "\n"
        prompt = (
            f"{self.question_label} {question.strip()}{gap}{self.answer_label} {self.step_phrase}"
        )
        response = f"{gap}{solution.strip()}{gap}{self.closing.format(answer=answer)}"
        return prompt, " ".join(response.split("\n")) if self.single_line else response

    def extract_answer(self, text: str) -> str | None:
        """Return the number of the last closing phrase in `text`, or None (strict extraction)."""
        found = re.findall(self.answer_pattern, text)
        return found[-1].rstrip(".,\u00a0\u202f") if found else None


LANGUAGES = {
    language.code: language
    for language in (
        Language(
            code="en",
            name="English",
            native_name="English",
            script="Latn",
            question_label="Q:",
            answer_label="A:",
            step_phrase="Let's think step by step.",
            closing="The answer is {answer}",
            answer_pattern=rf"The answer is \$?{_NUMBER}",
            single_line=False,
            exemplar="Mia has 3 pens and buys 4. 3 + 4 = 7. The answer is 7.",
            exemplar_answer="7",
        ),
        Language(
            code="de",
            name="German",
            native_name="Deutsch",
            script="Latn",
            question_label="F:",
            answer_label="A:",
            step_phrase="Denken wir Schritt für Schritt.",
            closing="Die Antwort ist {answer}",
            answer_pattern=rf"Die Antwort (?:ist|lautet) \$?{_NUMBER}",
            single_line=True,
            exemplar="Mia hat 3 Stifte und kauft 4. 3 + 4 = 7. Die Antwort ist 7.",
            exemplar_answer="7",
        ),
        Language(
            code="fr",
            name="French",
            native_name="Français",
            script="Latn",
            question_label="Q:",
            answer_label="R:",
            step_phrase="Réfléchissons étape par étape.",
            closing="La réponse est {answer}",
            answer_pattern=rf"La réponse est \$?{_NUMBER}",
            single_line=True,
            exemplar="Mia a 3 stylos et en achète 4. 3 + 4 = 7. La réponse est 7.",
            exemplar_answer="7",
        ),
        Language(
            code="hi",
            name="Hindi",
            native_name="हिन्दी",
            script="Deva",
            question_label="प्रश्न:",
            answer_label="उत्तर:",
            step_phrase="चलो एक-एक करके सोचें।",
            closing="उत्तर है {answer}",
            answer_pattern=rf"(?:उत्तर|जवाब) (?:है )?\$?{_NUMBER}",
            single_line=True,
            exemplar="मिया के पास 3 कलम हैं और वह 4 खरीदती है। 3 + 4 = 7. उत्तर 7 है।",
            exemplar_answer="7",
        ),
    )
}


def get_language(code: str) -> Language:
    """Look a language up by its ISO 639-1 code.

    Raises:
        ValueError: No record for `code`; the message lists the codes there are.
    """
    if code not in LANGUAGES:
        raise ValueError(
            f"unknown language {code!r}: choose from {', '.join(sorted(LANGUAGES))}, "
            "or add a Language record in mmlib/languages.py"
        )
    return LANGUAGES[code]
