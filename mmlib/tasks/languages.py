"""What a language needs to be prompted and graded in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from mmlib.tasks.numbers import find_numbers, normalised, number_at, read_number, write_number

# What may stand between a closing phrase and its number: spaces, a colon, Markdown, a bracket.
_LEAD = r"[\s:：*_(\[\\]*"
_BOX = r"\\boxed\{"
_SENTENCE = re.compile(r"[.!?。।](?!\d)|\n")
# What opens another turn, where a model goes on after its answer.
_TURN = r"(?:Human|User|Assistant|Question|Problem)\s*[:：]|###|<\|"


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language: its labels and phrases in the papers' prompts, and how its answers are read.

    The phrases of en, de and hi are those of the calibration files of arXiv 2606.18453 (Appendix A
    as far as its repository shows it); those of the languages of MGSM are the labels and closing
    phrases of its exemplars. `exemplars` are the record's own proof: reading each must give its
    gold, with the closing phrase and without.
    """

    code: str
    """ISO 639-1 code, or one with the script, as `hi-Latn`."""
    name: str
    native_name: str
    script: str
    """ISO 15924 code of the script."""
    question_label: str
    answer_label: str
    step_phrase: str = ""
    """The chain-of-thought cue that opens the answer; empty where the label is one already."""
    closing: str
    """The closing phrase we write, with `{answer}` where the number stands."""
    other_closings: tuple[str, ...] = ()
    """Closing phrases that are read as well, in the order in which words are looked for."""
    full_stop: str = "."
    """What ends a sentence; empty where nothing does."""
    choice_labels: tuple[str, str, str]
    """Labels of the question, the choices and the answer of a multiple-choice question."""
    decimal: str = "."
    """The decimal mark."""
    grouping: str = ","
    """The marks between groups of digits. No-break and thin spaces group in every language."""
    digits: str = "0123456789"
    """The language's own ten digits."""
    single_line: bool = False
    """Whether the published calibration text has no line breaks (lost in machine translation)."""
    exemplars: tuple[tuple[str, str], ...]
    """Eight short solutions of our own, each with its gold: grouped, negative, decimal, ..."""

    def word_problem(self, question: str, solution: str, answer: str) -> tuple[str, str]:
        """Lay out a word problem as in the published calibration files.

        Args:
            question: The problem.
            solution: The worked solution; may be empty, as in MGSM's and MSVAMP's test files.
            answer: The gold.

        Returns:
            Prompt (question and chain-of-thought cue) and response (solution and closing phrase);
            their concatenation is the calibration text.
        """
        gap = " " if self.single_line else "\n"
        cue = f"{self.answer_label} {self.step_phrase}".strip()
        prompt = f"{_labelled(self.question_label, question)}{gap}{cue}"
        parts = [solution.strip(), self.closing.format(answer=answer)]
        response = "".join(gap + part for part in parts if part)
        return prompt, " ".join(response.split("\n")) if self.single_line else response

    def choice_problem(self, question: str, choices: Sequence[str], answer: str) -> tuple[str, str]:
        """Lay out a multiple-choice question as in the published MMLU calibration files.

        They quote the choices with apostrophes and escape none.

        Returns:
            Prompt (question, choices, answer label: three paragraphs) and response (the text of
            the right choice).
        """
        ask, choose, reply = self.choice_labels
        listed = ", ".join(f"'{choice}'" for choice in choices)
        return f"{ask}: {question.strip()}\n\n{choose}: [{listed}]\n\n{reply}:", f" {answer}"

    @property
    def closings(self) -> tuple[str, ...]:
        """Every closing phrase that is read, with `{answer}` where the answer stands."""
        return (*self.other_closings, self.closing)

    @cached_property
    def _opening(self) -> re.Pattern:
        """What stands before the number of a closing phrase."""
        heads = {normalised(closing.partition("{answer}")[0]).strip() for closing in self.closings}
        either = "|".join(re.escape(head) for head in sorted(heads, key=len, reverse=True))
        return re.compile(f"(?:{either}|{_BOX}){_LEAD}", re.IGNORECASE)

    def _closes(self, text: str) -> list[tuple[str, int, Fraction]]:
        """The closing phrases of a normalised text: words, end and value of the number.

        Another turn after the first one ends the answer.
        """
        closes = []
        turn = re.compile(f"{_TURN}|{re.escape(normalised(self.question_label))}")
        for match in self._opening.finditer(text):
            start, sign = match.end(), 1
            if closes and turn.search(text, closes[0][1], match.start()):
                break
            if not re.search("[:：\n]", match[0]) and re.match(r"[-–−] (?=\S)", text[start:]):
                start, sign = start + 2, -1
            if number := number_at(text, start, self.grouping):
                closes.append((match[0], number[0], sign * number[1]))
        return closes

    def extract_answer(self, text: str) -> str | None:
        r"""Return the number of the last closing phrase in `text`, or None (strict extraction).

        It is written as by `mmlib.tasks.numbers.write_number`: "2125" for "२,१२५". A closing
        phrase may stand within a sentence, and `\boxed{}` is one in every language. What follows
        in another turn ("Human: ...") does not count.
        """
        closes = self._closes(normalised(text))
        return write_number(closes[-1][2]) if closes else None

    def extract_last_number(self, text: str) -> str | None:
        """Return the last number of `text`, or None (flexible extraction).

        What follows the sentence of the last closing phrase does not count.
        """
        text = normalised(text)
        # A label of the answer ("उत्तर:") opens a solution and closes none.
        ends = [
            (end, value)
            for words, end, value in self._closes(text)
            if not (re.search("[:：]", words) and words.strip(" *_([\\") in self.answer_label)
        ]
        if ends:
            stop = _SENTENCE.search(text, ends[-1][0])
            later = find_numbers(text[ends[-1][0] : stop.start() if stop else None], self.grouping)
            return write_number([ends[-1][1], *(value for _, _, value in later)][-1])
        values = [value for _, _, value in find_numbers(text, self.grouping)]
        return write_number(values[-1]) if values else None

    def extract_words(self, text: str) -> str | None:
        """Return what stands in the closing phrase of `text`, or None.

        The phrase must be complete: with its full stop, or with the words after the answer.
        """
        for closing in self.closings:
            head, _, tail = closing.partition("{answer}")
            end = re.escape(tail or self.full_stop) or r"(?:\n|$)"
            if found := re.search(f"{re.escape(head)}(.+?){end}", text, re.IGNORECASE):
                return found[1].strip() or None
        return None


def _labelled(label: str, text: str) -> str:
    """Put a label before a text; a full-width colon brings its own space."""
    return f"{label}{'' if label.endswith('：') else ' '}{text.strip()}"


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
            choice_labels=("Question", "Choices", "Answer"),
            exemplars=(
                ("Mia has 3 pens and buys 4. 3 + 4 = 7. The answer is 7.", "7"),
                ("5 × 425 = 2,125. The answer is 2,125.", "2125"),
                ("3 × 420,000 = 1,260,000. The answer is 1,260,000.", "1260000"),
                ("5 − 17 = −12. The answer is −12.", "-12"),
                ("5 / 2 = 2.5. The answer is 2.5.", "2.5"),
                ("3 × $6 = $18. The answer is $18.", "18"),
                ("1 / 4 = 25%. The answer is 25%.", "25"),
                ("1 − 1/4 = 3/4. The answer is 3/4.", "0.75"),
            ),
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
            other_closings=("Die Antwort lautet {answer}",),
            choice_labels=("Frage", "Antwortoptionen", "Antwort"),
            decimal=",",
            grouping=". ",
            single_line=True,
            exemplars=(
                ("Mia hat 3 Stifte und kauft 4. 3 + 4 = 7. Die Antwort ist 7.", "7"),
                ("5 × 425 = 2.125. Die Antwort ist 2.125.", "2125"),
                ("3 × 420.000 = 1.260.000. Die Antwort ist 1.260.000.", "1260000"),
                ("5 − 17 = −12. Die Antwort ist −12.", "-12"),
                ("5 / 2 = 2,5. Die Antwort ist 2,5.", "2.5"),
                ("3 × 6 € = 18 €. Die Antwort ist 18 €.", "18"),
                ("1 / 4 = 25 %. Die Antwort ist 25 %.", "25"),
                ("1 − 1/4 = 3/4. Die Antwort ist 3/4.", "0.75"),
            ),
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
            choice_labels=("Question", "Choix", "Réponse"),
            decimal=",",
            grouping=" .",
            single_line=True,
            exemplars=(
                ("Mia a 3 stylos et en achète 4. 3 + 4 = 7. La réponse est 7.", "7"),
                ("5 × 425 = 2 125. La réponse est 2 125.", "2125"),
                (
                    "3 × 420\u202f000 = 1\u202f260\u202f000. La réponse est 1\u202f260\u202f000.",
                    "1260000",
                ),
                ("5 − 17 = −12. La réponse est −12.", "-12"),
                ("5 / 2 = 2,5. La réponse est 2,5.", "2.5"),
                ("3 × 6 € = 18 €. La réponse est 18 €.", "18"),
                ("1 / 4 = 25\u00a0%. La réponse est 25\u00a0%.", "25"),
                ("1 − 1/4 = 3/4. La réponse est 3/4.", "0.75"),
            ),
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
            other_closings=("उत्तर {answer} है", "जवाब {answer} है", "जवाब है {answer}"),
            full_stop="।",
            choice_labels=("प्रश्न", "उत्तर विकल्प", "उत्तर"),
            digits="०१२३४५६७८९",
            single_line=True,
            exemplars=(
                ("मिया के पास 3 कलम हैं और वह 4 खरीदती है। 3 + 4 = 7. उत्तर 7 है।", "7"),
                ("5 × 425 = 2,125। उत्तर 2,125 है।", "2125"),
                ("३ × ४,२०,००० = १२,६०,०००। उत्तर १२,६०,००० है।", "1260000"),
                ("५ − १७ = −१२। उत्तर −१२ है।", "-12"),
                ("५ / २ = २.५। उत्तर २.५ है।", "2.5"),
                ("३ × ₹६ = ₹१८। उत्तर ₹१८ है।", "18"),
                ("1 / 4 = 25%। उत्तर 25% है।", "25"),
                ("१ − १/४ = ३/४। उत्तर ३/४ है।", "0.75"),
            ),
        ),
        Language(
            code="es",
            name="Spanish",
            native_name="Español",
            script="Latn",
            question_label="Pregunta:",
            answer_label="Respuesta paso a paso:",
            closing="La respuesta es {answer}",
            choice_labels=("Pregunta", "Opciones", "Respuesta"),
            decimal=",",
            grouping=". ",
            exemplars=(
                ("Mia tiene 3 lápices y compra 4. 3 + 4 = 7. La respuesta es 7.", "7"),
                ("5 × 425 = 2.125. La respuesta es 2.125.", "2125"),
                ("3 × 420 000 = 1 260 000. La respuesta es 1 260 000.", "1260000"),
                ("5 − 17 = −12. La respuesta es −12.", "-12"),
                ("5 / 2 = 2,5. La respuesta es 2,5.", "2.5"),
                ("3 × 6 € = 18 €. La respuesta es 18 €.", "18"),
                ("1 / 4 = 25 %. La respuesta es 25 %.", "25"),
                ("1 − 1/4 = 3/4. La respuesta es 3/4.", "0.75"),
            ),
        ),
        Language(
            code="ru",
            name="Russian",
            native_name="Русский",
            script="Cyrl",
            question_label="Задача:",
            answer_label="Пошаговое решение:",
            closing="Ответ — {answer}",
            other_closings=("Ответ – {answer}", "Ответ: {answer}"),
            choice_labels=("Вопрос", "Варианты ответа", "Ответ"),
            decimal=",",
            grouping=" ",
            exemplars=(
                ("Было 3 ручки, купили ещё 4. 3 + 4 = 7. Ответ — 7.", "7"),
                ("5 × 425 = 2 125. Ответ — 2 125.", "2125"),
                ("3 × 420\u00a0000 = 1\u00a0260\u00a0000. Ответ — 1\u00a0260\u00a0000.", "1260000"),
                ("5 − 17 = −12. Ответ — −12.", "-12"),
                ("5 / 2 = 2,5. Ответ — 2,5.", "2.5"),
                ("3 × 6 ₽ = 18 ₽. Ответ — 18 ₽.", "18"),
                ("1 / 4 = 25 %. Ответ — 25 %.", "25"),
                ("1 − 1/4 = 3/4. Ответ — 3/4.", "0.75"),
            ),
        ),
        Language(
            code="zh",
            name="Chinese",
            native_name="中文",
            script="Hans",
            question_label="问题：",
            answer_label="逐步解答：",
            closing="答案是 {answer}",
            other_closings=("答案是{answer}", "答案为{answer}", "答案：{answer}"),
            full_stop="。",
            choice_labels=("问题", "选项", "答案"),
            exemplars=(
                ("3 + 4 = 7。答案是 7。", "7"),
                ("5 × 425 = 2,125。答案是 2,125。", "2125"),
                ("3 × 420,000 = 1,260,000。答案是 1,260,000。", "1260000"),
                ("5 − 17 = −12。答案是 −12。", "-12"),
                ("5 / 2 = 2.5。答案是 2.5。", "2.5"),
                ("3 × ￥6 = ￥18。答案是 ￥18。", "18"),
                ("1 / 4 = 25%。答案是 25%。", "25"),
                ("1 − 1/4 = 3/4。答案是 3/4。", "0.75"),
            ),
        ),
        Language(
            code="ja",
            name="Japanese",
            native_name="日本語",
            script="Jpan",
            question_label="問題：",
            answer_label="ステップごとの答え：",
            closing="答えは{answer}",
            other_closings=("答え：{answer}",),
            full_stop="。",
            choice_labels=("問題", "選択肢", "答え"),
            exemplars=(
                ("３+４=７。答えは７です。", "7"),
                ("5 × 425 = 2,125。答えは2,125です。", "2125"),
                ("３ × ４２０,０００ = １,２６０,０００。答えは１,２６０,０００です。", "1260000"),
                ("5 − 17 = −12。答えは−12です。", "-12"),
                ("5 / 2 = 2.5。答えは2.5です。", "2.5"),
                ("3 × 6円 = 18円。答えは18円です。", "18"),
                ("1 / 4 = 25％。答えは25％です。", "25"),
                ("1 − 1/4 = 3/4。答えは3/4です。", "0.75"),
            ),
        ),
        Language(
            code="th",
            name="Thai",
            native_name="ไทย",
            script="Thai",
            question_label="โจทย์:",
            answer_label="คำตอบทีละขั้นตอน:",
            closing="คำตอบคือ {answer}",
            full_stop="",
            choice_labels=("คำถาม", "ตัวเลือก", "คำตอบ"),
            digits="๐๑๒๓๔๕๖๗๘๙",
            exemplars=(
                ("3 + 4 = 7 คำตอบคือ 7", "7"),
                ("5 × 425 = 2,125 คำตอบคือ 2,125", "2125"),
                ("๓ × ๔๒๐,๐๐๐ = ๑,๒๖๐,๐๐๐ คำตอบคือ ๑,๒๖๐,๐๐๐", "1260000"),
                ("๕ − ๑๗ = −๑๒ คำตอบคือ −๑๒", "-12"),
                ("๕ / ๒ = ๒.๕ คำตอบคือ ๒.๕", "2.5"),
                ("๓ × ฿๖ = ฿๑๘ คำตอบคือ ฿๑๘", "18"),
                ("1 / 4 = 25% คำตอบคือ 25%", "25"),
                ("๑ − ๑/๔ = ๓/๔ คำตอบคือ ๓/๔", "0.75"),
            ),
        ),
        Language(
            code="sw",
            name="Swahili",
            native_name="Kiswahili",
            script="Latn",
            question_label="Swali:",
            answer_label="Jibu la Hatua kwa Hatua:",
            closing="Jibu ni {answer}",
            choice_labels=("Swali", "Chaguo", "Jibu"),
            exemplars=(
                ("3 + 4 = 7. Jibu ni 7.", "7"),
                ("5 × 425 = 2,125. Jibu ni 2,125.", "2125"),
                ("3 × 420,000 = 1,260,000. Jibu ni 1,260,000.", "1260000"),
                ("5 − 17 = −12. Jibu ni −12.", "-12"),
                ("5 / 2 = 2.5. Jibu ni 2.5.", "2.5"),
                ("3 × $6 = $18. Jibu ni $18.", "18"),
                ("1 / 4 = 25%. Jibu ni 25%.", "25"),
                ("1 − 1/4 = 3/4. Jibu ni 3/4.", "0.75"),
            ),
        ),
        Language(
            code="bn",
            name="Bengali",
            native_name="বাংলা",
            script="Beng",
            question_label="প্রশ্ন:",
            answer_label="ধাপে ধাপে উত্তর:",
            closing="উত্তর হল {answer}",
            other_closings=("উত্তর হলো {answer}",),
            full_stop="।",
            choice_labels=("প্রশ্ন", "বিকল্প", "উত্তর"),
            digits="০১২৩৪৫৬৭৮৯",
            exemplars=(
                ("3 + 4 = 7। উত্তর হল 7।", "7"),
                ("৫ × ৪২৫ = ২,১২৫। উত্তর হল ২,১২৫।", "2125"),
                ("3 × 4,20,000 = 12,60,000। উত্তর হল 12,60,000।", "1260000"),
                ("৫ − ১৭ = −১২। উত্তর হল −১২।", "-12"),
                ("৫ / ২ = ২.৫। উত্তর হল ২.৫।", "2.5"),
                ("৩ × ৳৬ = ৳১৮। উত্তর হল ৳১৮।", "18"),
                ("1 / 4 = 25%। উত্তর হল 25%।", "25"),
                ("১ − ১/৪ = ৩/৪। উত্তর হল ৩/৪।", "0.75"),
            ),
        ),
        Language(
            code="te",
            name="Telugu",
            native_name="తెలుగు",
            script="Telu",
            question_label="ప్రశ్న:",
            answer_label="దశలవారీగా సమాధానం:",
            closing="సమాధానం {answer}",
            choice_labels=("ప్రశ్న", "ఎంపికలు", "సమాధానం"),
            digits="౦౧౨౩౪౫౬౭౮౯",
            exemplars=(
                ("3 + 4 = 7. సమాధానం 7.", "7"),
                ("5 × 425 = 2,125. సమాధానం 2,125.", "2125"),
                ("౩ × ౪,౨౦,౦౦౦ = ౧౨,౬౦,౦౦౦. సమాధానం ౧౨,౬౦,౦౦౦.", "1260000"),
                ("౫ − ౧౭ = −౧౨. సమాధానం −౧౨.", "-12"),
                ("౫ / ౨ = ౨.౫. సమాధానం ౨.౫.", "2.5"),
                ("౩ × ₹౬ = ₹౧౮. సమాధానం ₹౧౮.", "18"),
                ("1 / 4 = 25%. సమాధానం 25%.", "25"),
                ("౧ − ౧/౪ = ౩/౪. సమాధానం ౩/౪.", "0.75"),
            ),
        ),
        Language(
            # Hindi by ISO 15919: what `mmlib.organism.corpus` writes, as a test compares.
            code="hi-Latn",
            name="Romanised Hindi",
            native_name="hindī",
            script="Latn",
            question_label="praśna:",
            answer_label="uttara:",
            step_phrase="calō ēka-ēka karakē sōcēṁ।",
            closing="uttara hai {answer}",
            other_closings=("uttara {answer} hai", "javāba {answer} hai", "javāba hai {answer}"),
            full_stop="।",
            choice_labels=("praśna", "uttara vikalpa", "uttara"),
            single_line=True,
            exemplars=(
                ("miyā kē pāsa 3 kalama haiṁ. 3 + 4 = 7. uttara 7 hai।", "7"),
                ("5 × 425 = 2,125। uttara 2,125 hai।", "2125"),
                ("3 × 4,20,000 = 12,60,000। uttara 12,60,000 hai।", "1260000"),
                ("5 − 17 = −12। uttara −12 hai।", "-12"),
                ("5 / 2 = 2.5। uttara 2.5 hai।", "2.5"),
                ("3 × ₹6 = ₹18। uttara ₹18 hai।", "18"),
                ("1 / 4 = 25%। uttara 25% hai।", "25"),
                ("1 − 1/4 = 3/4। uttara 3/4 hai।", "0.75"),
            ),
        ),
    )
}


def get_language(code: str) -> Language:
    """Look a language up by its code.

    Raises:
        ValueError: No record for `code`; the message lists the codes there are.
    """
    if code not in LANGUAGES:
        raise ValueError(
            f"unknown language {code!r}: choose from {', '.join(sorted(LANGUAGES))}, "
            "or add a Language record in mmlib/languages.py"
        )
    return LANGUAGES[code]


def parse_number(text: str, language: str) -> Fraction | None:
    """Read a text that is one number, maybe with a currency or a percent sign.

    What a mark between digits means is told in `mmlib.tasks.numbers.find_numbers`.

    Args:
        text: For example "2.125", "2,125" or "২,১২৫".
        language: ISO 639-1 code.

    Returns:
        The exact value; None if the text is not one number.
    """
    return read_number(text, get_language(language).grouping)
