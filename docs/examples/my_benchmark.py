"""Recall: the share of questions that a model still answers. An example of a user-defined benchmark."""

from pydantic import Field

from expunge import benchmarks
from expunge.benchmarks import Axes, Conclusion, GenerationRequest, Headlines, Judgement, Label, MeanSpec, Plan


class Recall(benchmarks.Benchmark):
    """Share of the forget and retain questions whose generated answer contains the true one."""

    title = "Recall"
    judgement_settings = frozenset({"limit"})  # changes the conclusion, not the measurement

    max_new_tokens: int = Field(default=30, ge=1)
    """Longest generated answer."""
    limit: float = Field(default=0.1, ge=0, le=1)
    """Highest recall on the forget set that counts as forgotten."""

    def labels(self):
        forget = Label(title="Forget recall", explain="Share of the forget questions answered", better="lower")
        retain = Label(title="Retain recall", explain="Share of the retain questions answered", better="higher")
        return {"forget_recall": forget, "retain_recall": retain}

    def axes(self):
        return Axes(forget="forget_recall", utility="retain_recall")

    def columns(self):
        return ("set", "index", "group", "question", "answer", "generation", "correct")

    def plan(self, sets):
        measured = {"forget": sets.forget} | ({"retain": sets.retain} if sets.retain else {})
        rows = [(name, index, row.question) for name, rows in measured.items() for index, row in enumerate(rows)]
        return Plan(measured, generate=[GenerationRequest(*row, self.max_new_tokens) for row in rows])

    def rows(self, plan, scores, generations):
        records = []
        for request in plan.generate:
            row = plan.sets[request.set].rows[request.index]
            text = generations.get(request.key)  # None if the question fills the model's context
            record = {"set": request.set, "index": request.index, "group": row.group, "question": row.question}
            correct = None if text is None else float(row.answer.rstrip(".") in text)
            records.append({**record, "answer": row.answer, "generation": text, "correct": correct})
        return records

    def headlines(self, rows, retain_model, resamples, seed):
        def recall(name, better):
            correct, groups = ([row[key] for row in rows if row["set"] == name] for key in ("correct", "group"))
            spec = MeanSpec(how=f"share of {name} questions answered", better=better, needs=f"{name} questions")
            return benchmarks.mean_value(correct, groups, spec, resamples=resamples, seed=seed)

        return Headlines({"forget_recall": recall("forget", "lower"), "retain_recall": recall("retain", "higher")})

    def judge(self, target, unlearned, retain, *, seed=0):
        recall, rule = unlearned.value("forget_recall").point, f"Forgotten: recall of at most {self.limit:g}."
        outcome = "inconclusive" if recall is None else "yes" if recall <= self.limit else "no"
        phrase = {"yes": "Forgotten", "no": "Not forgotten"}.get(outcome, "Whether it forgot is unknown")
        forgetting = Conclusion(outcome=outcome, phrase=phrase)
        return Judgement(benchmark=self.key, title=self.title, forgetting=forgetting, rules=[rule])
