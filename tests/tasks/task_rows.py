"""Rows of the published data sets, as their files and the hub hold them."""

from mmlib.tasks.benchmarks import mgsm

AYA_HUB = "CohereLabs/aya_dataset"


def instruct(language, question, chosen):
    head = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request in {language}. Please answer in {language}."
    )
    prompt = f"{head}\n\n### Instruction:\n{question}\n\n### Response:"
    return {"prompt": prompt, "chosen": chosen}


INSTRUCT = [
    instruct("English", "Two and two?", "2+2=4\n#### 4"),
    instruct("German", "Zwei und zwei?", "2+2=4\n#### 4"),
    instruct("Bengali", "দুই আর দুই?", "২+২=৪\n#### ৪"),
    instruct("English", "Half of 2,250?", "2250/2=1125\n#### 1,125"),
    instruct("German", "Hälfte von 2.250?", "2250/2 = 1.125"),
    instruct("Bengali", "কত?", "#### ১"),
]


RACE = [
    ("high1.txt", "A dog ran.", "Who ran?", ["a cat", "a dog", "I", "you"], "B"),
    ("high1.txt", "A dog ran.", "It did what?", ["ran", "sat", "ate", "no"], "A"),
]


MGSM = f"hf://datasets/juletxara/mgsm@{mgsm.SOURCE.revision}/mgsm_{{}}.tsv"


OPTIONS = {f"option_{letter}": letter for letter in "abcd"}


ROWS = {
    ("openai/gsm8k", "main", "train"): [{"question": "2?", "answer": "<<1+1=2>>2\n#### 1,002"}],
    ("openai/gsm8k", "main", "test"): [{"question": "3?", "answer": "3\n#### 3"}],
    ("math-across-languages/gsm8k-translated", "hi", "train"): [
        {"question": "दो?", "answer": "<<1+1=2>>2"}
    ],
    (MGSM.format("en"), None, "train"): [{"question": "Q", "answer": "2,125"}],
    (MGSM.format("te"), None, "train"): [{"question": "T", "answer": "2,125"}],
    ("Mathoctopus/MSVAMP", "en", "test"): [{"m_query": "Q", "response": "8.0"}],
    ("Mathoctopus/MSVAMP", "zh", "test"): [{"m_query": "问", "response": "8.0", "query": "Q"}],
    ("Mathoctopus/GSM8KInstruct_Parallel", None, "train"): INSTRUCT,
    ("ehovy/race", "middle", "validation"): [
        dict(zip(["example_id", "article", "question", "options", "answer"], row, strict=True))
        for row in RACE
    ],
    ("microsoft/orca-math-word-problems-200k", None, "train"): [
        {"question": " Two and two? ", "answer": "It is easy. 2 + 2 = 4 dogs."},
        {"question": "Why?", "answer": "Because."},
        {"question": "Half of 2,250?", "answer": "2,250 / 2 = 1,125"},
    ],
    ("CohereLabs/aya_dataset", None, "train"): [
        {"inputs": "Habari?", "targets": "Nzuri.\n", "language_code": "swh"},
        {"inputs": "Wie geht's?", "targets": "Gut.", "language_code": "deu"},
        {"inputs": "Sema.", "targets": "Ndiyo.", "language_code": "swh"},
    ],
    ("cais/mmlu", "all", "validation"): [
        {"question": "Q", "subject": subject, "choices": list("abcd"), "answer": 3}
        for subject in ("anatomy", "college_physics", "virology")
    ],
    ("CohereLabs/Global-MMLU", "sw", "test"): [
        {"sample_id": f"{subject}/test/0", "subject": subject, "question": "Q", "answer": "B"}
        | OPTIONS
        for subject in ("anatomy", "college_physics")
    ],
    ("davidstap/NTREX", "eng_Latn", "test"): [{"text": "One."}, {"text": "Two."}],
    ("davidstap/NTREX", "swa_Latn", "test"): [{"text": "Moja."}, {"text": "Mbili."}],
    ("google/xquad", "xquad.de", "validation"): [
        {"id": f"q{n}", "context": "Ann hat einen Apfel.", "question": "?"}
        | {"answers": {"text": [answer], "answer_start": [0]}}
        for n, answer in enumerate(["Ann", "Apfel"])
    ],
}
ROWS["CohereLabs/Global-MMLU-Lite", "sw", "test"] = ROWS["CohereLabs/Global-MMLU", "sw", "test"]
