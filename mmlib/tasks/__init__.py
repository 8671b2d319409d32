"""What a model is asked: benchmarks, languages, reading numbers, asking and grading."""
