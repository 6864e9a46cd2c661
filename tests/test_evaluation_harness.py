"""The harness, over a real model and lm-eval: repeats, prompts, stops, resumption, and data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import table

from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.evaluation import engine
from bll_sweeps.evaluation.engine import HFEngine, cut_at
from bll_sweeps.evaluation.harness import EvaluationResult, evaluate
from bll_sweeps.evaluation.sampling import uniforms
from bll_sweeps.evaluation.scores import disagreements, score_rows, summarise
from bll_sweeps.grid.axes import (
    Backbone,
    Benchmark,
    Decoding,
    Domain,
    LabTask,
    ModelShape,
    Objective,
    Pretraining,
    Recipe,
)
from bll_sweeps.grid.cell import EvaluateJob, TrainJob
from bll_sweeps.grid.settings import Execution
from bll_sweeps.lab.model import new_model
from bll_sweeps.lab.tasks import held_out, training_rows
from bll_sweeps.lab.tokenizer import build
from bll_sweeps.training.model import save_model

SPELL = LabTask(dataset="spell_backward", params={"min_word_len": 3, "max_word_len": 4}, held_out=30)
SHAPE = ModelShape(hidden_size=16, layers=1, intermediate_size=16, heads=2, kv_heads=1, max_positions=16)
EXECUTION = Execution(name="cpu", eval_batch=16)
BENCHMARK = Benchmark(
    name="spelling",
    domain="spell",
    task="exact_answer",
    questions=10,
    decodings={"sampled": Decoding(temperature=1.0, samples=4), "greedy": Decoding(temperature=0.0)},
    primary="sampled",
    max_new_tokens=5,
)


def evaluation(trained_on: Domain | None = None, prompt: str = "{question}\nAnswer: ", **changes: Any) -> EvaluateJob:
    pretraining = Pretraining(
        shape=SHAPE, exposure={"spell": 8}, recipe=Recipe(name="r", learning_rate=1e-3, batch_size=8)
    )
    backbone = Backbone(name="b", source="lab", pretraining=pretraining, tasks={"spell": SPELL})
    domain = Domain(name="spell", source="lab", task="spell", lab=SPELL, rows=8, prompt=prompt)
    train = None
    if trained_on:
        objective = Objective(name="nll", family="nll")
        train = TrainJob(objective=objective, backbone=backbone, domain=trained_on, recipe=pretraining.recipe, seed=0)
    benchmark = dataclasses.replace(BENCHMARK, **changes)
    return EvaluateJob(backbone=backbone, domain=trained_on or domain, benchmark=benchmark, train=train)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with strong opinions."""
    tokenizer = build({"spell": SPELL})
    model = new_model(SHAPE, tokenizer, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    path = tmp_path_factory.mktemp("harness") / "model"
    save_model(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> HFEngine:
    return HFEngine.load(folder, EXECUTION)


@pytest.fixture
def run(checkpoint: HFEngine, tmp_path: Path) -> Callable[..., EvaluationResult]:
    """`run(benchmark changes, execution=...)` with a journal of its own per call."""
    calls: list[Path] = []

    def call(execution: Execution = EXECUTION, **changes: Any) -> EvaluationResult:
        calls.append(tmp_path / f"journal.{len(calls)}")
        loaded = HFEngine(checkpoint.model, checkpoint.tokenizer, checkpoint.digest, execution.eval_batch)
        return evaluate(loaded, evaluation(**changes), execution, journal=calls[-1])

    return call


def texts(result: EvaluationResult, decoding: str = "sampled") -> dict[str, list[str]]:
    return {row["question"]: row[decoding] for row in result.generations}


def test_every_generation_of_every_decoding_is_kept_and_graded(run: Callable[..., EvaluationResult]) -> None:
    result = run()
    (graded,) = result.rows.values()
    assert [len(row["sampled"]) for row in graded] == [4] * 10
    assert [len(row["greedy"]) for row in graded] == [1] * 10
    first = held_out(SPELL)[0]
    assert graded[0]["question"] == hashlib.sha256(first.question.encode()).hexdigest()[:16]
    assert graded[0]["answers"]["sampled"] == [text.strip() for text in result.generations[0]["sampled"]]
    assert result.generations[0]["prompt"] == f"{first.question}\nAnswer: "
    assert result.generations[0]["gold"] == first.answer
    assert len(set(result.generations[0]["sampled"])) > 1  # repeats are not copies
    assert {k: result.summary[k] for k in result.summary.keys() - {"metrics", "graders"}} == {
        "benchmark": "spelling",
        "engine": "hf",
        "grader": "exact-v1",
        "primary": "sampled",
        "seen_in_training": 0,
        "disagreements": 0,
    }


def test_stored_generations_can_be_graded_again(run: Callable[..., EvaluationResult]) -> None:
    result = run(graders=("exact", "word"))
    stored = json.loads(json.dumps(result.generations))
    again = {f"{name}-v1": score_rows(stored, BENCHMARK.decodings, name) for name in ("exact", "word")}
    assert again == result.rows
    expected = summarise(stored, BENCHMARK.decodings, again)
    assert {key: result.summary[key] for key in expected} == expected


def test_every_grader_is_told_of_and_the_first_one_counts(run: Callable[..., EvaluationResult], tmp_path: Path) -> None:
    """`word` forgives no blanks, `exact` those at the ends."""
    said = [row["greedy"][0] for row in run().generations]
    rows = [
        {"question": row.question, "answer": f"{text} " if i < 3 else "?"}
        for i, (row, text) in enumerate(zip(held_out(SPELL)[:10], said, strict=True))
    ]
    results = {
        order: run(**file_benchmark(tmp_path, rows), graders=order) for order in (("exact", "word"), ("word", "exact"))
    }
    for order, result in results.items():
        assert list(result.rows) == list(result.summary["graders"]) == [f"{name}-v1" for name in order]
        assert result.summary["grader"] == f"{order[0]}-v1"
        assert result.summary["metrics"] == result.summary["graders"][f"{order[0]}-v1"]
        assert result.disagreements == disagreements(result.rows, BENCHMARK.decodings)
        assert result.summary["disagreements"] == len(result.disagreements) >= 3
    first, second = results.values()
    assert first.rows == second.rows and first.generations == second.generations
    assert first.summary["metrics"]["greedy"]["mean"] == pytest.approx(0.3)
    assert second.summary["metrics"]["greedy"]["mean"] == 0


def test_an_unknown_grader_is_named_before_anything_is_generated(
    run: Callable[..., EvaluationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate", None)
    with pytest.raises(ConfigError, match=r"benchmark\.graders='exakt'.*did you mean 'exact'"):
        run(graders=("exact", "exakt"))


def test_options_are_asked_with_the_question_and_kept_with_its_generations(
    run: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    path = tmp_path / "choices.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "B", "options": {"A": "one", "B": "two"}}) + "\n")
    columns = {"question": "question", "answer": "answer", "options": "options"}
    # The context of this model is too short for it: so is the text.
    data = table(path, columns=columns)
    result = run(source="table", data=data, questions=0, max_new_tokens=1, graders=("option",), prompt="{question}")
    (row,) = result.generations
    assert row["prompt"] == "q\nA. one\nB. two"
    assert (row["gold"], row["options"]) == ("B", [["A", "one"], ["B", "two"]])
    assert score_rows(json.loads(json.dumps([row])), BENCHMARK.decodings, "option") == result.rows["option-v1"]


def test_generations_that_end_for_want_of_room_are_counted(
    run: Callable[..., EvaluationResult], checkpoint: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []

    def some_stop_early(model: Any, prompts: Any, streams: Any, *args: Any, **kwargs: Any) -> list[list[int]]:
        rooms.extend(len(prompt) + len(stream) for prompt, stream in zip(prompts, streams, strict=True))
        return [[70] * (len(stream) - int(stream[0] > 0.4)) for stream in streams]

    monkeypatch.setattr(engine, "generate", some_stop_early)
    for max_new_tokens in (5, 500):  # the second is more than the context of this model
        result = run(max_new_tokens=max_new_tokens)
        for name, count in (("sampled", 4), ("greedy", 1)):
            expected = [
                [bool(uniforms(0, row["prompt"], repeat, 1)[0] <= 0.4) for repeat in range(count)]
                for row in result.generations
            ]
            assert [row["length_limited"][name] for row in result.generations] == expected
            share = sum(map(sum, expected)) / (10 * count)
            assert 0 < share < 1 and result.summary["metrics"][name]["length_limited"] == pytest.approx(share)
    assert set(rooms[-50:]) == {16}  # prompt and generation filled the context


def test_an_answer_that_met_a_stop_string_was_not_limited_by_its_length() -> None:
    assert cut_at("ab;cd", (";", "c"), True) == ("ab", False)
    assert cut_at("abcd", (";",), True) == ("abcd", True)
    assert cut_at("abcd", (), False) == ("abcd", False)


def test_a_lab_domain_keeps_held_out_questions_apart_but_not_those_of_a_file(
    run: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    domain = evaluation().domain
    assert run(trained_on=domain).summary["seen_in_training"] == 0
    question = training_rows(domain)[0].question
    benchmark = file_benchmark(tmp_path, [{"question": question, "answer": "x"}])
    assert run(trained_on=domain, **benchmark).summary["seen_in_training"] == 1


def test_evaluation_computes_as_deterministically_as_training(
    checkpoint: HFEngine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[bool] = []
    generate = engine.generate

    def watched(*args: Any, **kwargs: Any) -> list[list[int]]:
        during.append(torch.are_deterministic_algorithms_enabled())
        return generate(*args, **kwargs)

    monkeypatch.setattr(engine, "generate", watched)
    before = torch.are_deterministic_algorithms_enabled()
    evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "j")
    assert during and all(during)
    assert torch.are_deterministic_algorithms_enabled() == before
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    HFEngine.load(folder, EXECUTION)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_gpu_that_is_not_there_is_a_configuration_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"execution\.device='cuda' is not available"):
        HFEngine.load(folder, dataclasses.replace(EXECUTION, device="cuda"))
    assert HFEngine.load(folder, dataclasses.replace(EXECUTION, device="auto")).model.device.type == "cpu"


def test_right_answers_are_scored_as_such(
    run: Callable[..., EvaluationResult], tmp_path: Path, checkpoint: HFEngine
) -> None:
    said = texts(run(), "greedy")
    questions = [row.question for row in held_out(SPELL)[:10]]
    gold = [said[hashlib.sha256(q.encode()).hexdigest()[:16]][0] if i < 3 else "?" for i, q in enumerate(questions)]
    changes = file_benchmark(tmp_path, [{"question": q, "answer": a} for q, a in zip(questions, gold, strict=True)])
    result = run(**changes)
    assert [row["greedy"] for row in result.rows["exact-v1"]] == [[1]] * 3 + [[0]] * 7
    assert result.summary["metrics"]["greedy"]["mean"] == pytest.approx(0.3)
    assert result.summary["metrics"]["greedy"]["stderr"] == pytest.approx((0.3 * 0.7 * 10 / 9 / 10) ** 0.5)


def test_samples_do_not_depend_on_batch_size_other_questions_or_other_decodings(
    run: Callable[..., EvaluationResult],
) -> None:
    whole = texts(run())
    assert texts(run(Execution(name="cpu", eval_batch=3))) == whole
    fewer = texts(run(questions=4, decodings={"sampled": Decoding(temperature=1.0, samples=2)}))
    assert fewer == {question: whole[question][:2] for question in fewer}
    renamed = run(decodings={"a": Decoding(temperature=0.0), "b": BENCHMARK.decodings["sampled"]}, primary="b")
    assert texts(renamed, "b") == whole


def test_samples_do_not_depend_on_the_order_of_questions_or_on_benchmarks_that_ran_before(
    checkpoint: HFEngine, tmp_path: Path
) -> None:
    """One engine, as the evaluations of a checkpoint share it."""
    rows = [{"question": row.question, "answer": row.answer} for row in held_out(SPELL)[:12]]

    def asked(name: str, of: list[dict[str, str]]) -> dict[str, list[str]]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in of))
        job = evaluation(source="table", data=table(path), questions=0)
        return texts(evaluate(checkpoint, job, EXECUTION, journal=tmp_path / f"{name}.journal"))

    alone = asked("alone", rows)
    assert asked("other", [{"question": "aaa", "answer": "a"}]).keys().isdisjoint(alone)
    assert asked("reversed", rows[::-1]) == alone
    assert asked("shifted", [*rows[5:], *rows[:5]]) == alone


def test_the_seed_changes_samples_and_not_the_greedy_answer(run: Callable[..., EvaluationResult]) -> None:
    assert texts(run()) == texts(run())
    assert texts(run()) != texts(run(seed=1))
    assert texts(run(), "greedy") == texts(run(seed=1), "greedy")


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_bytes(
    checkpoint: HFEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4  # 10 greedy rows, then 40 sampled ones in 16s
    (tmp_path / "torn").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    generated: list[int] = []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda *a, **k: generated.append(len(a[1])) or generate(*a, **k))
    resumed = evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "b", earlier=[tmp_path / "torn"])
    assert resumed == expected and generated == [16, 8]
    assert (tmp_path / "b").read_bytes() == b"".join(lines[2:])


def test_a_foreign_journal_is_not_used(checkpoint: HFEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "a")
    generated: list[int] = []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda *a, **k: generated.append(1) or generate(*a, **k))
    another = HFEngine(checkpoint.model, checkpoint.tokenizer, "another model", checkpoint.batch)
    for i, (model, job) in enumerate(
        [(another, evaluation()), (checkpoint, evaluation(seed=1)), (checkpoint, evaluation(max_new_tokens=4))]
    ):
        generated.clear()
        evaluate(model, job, EXECUTION, journal=tmp_path / f"b{i}", earlier=[tmp_path / "a"])
        assert len(generated) == 4


def test_generation_ends_before_every_stop_token_of_the_generation_config(
    checkpoint: HFEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "a")
    said = [text for row in free.generations for text in row["sampled"]]
    stop = Counter(c for c in "".join(said) if ord(c) < 32).most_common(1)[0][0]  # part of no constant piece
    (stop_id,) = checkpoint.tokenizer(stop)["input_ids"]
    eos = checkpoint.tokenizer.eos_token_id
    monkeypatch.setattr(checkpoint.model.generation_config, "eos_token_id", [eos, stop_id])
    stopped = evaluate(checkpoint, evaluation(), EXECUTION, journal=tmp_path / "b")
    cut = [text.partition(stop)[0] for text in said]
    assert cut != said and [text for row in stopped.generations for text in row["sampled"]] == cut
    assert not any("<eos>" in text or "<pad>" in text for text in said)


def test_the_length_is_cut_to_the_context_and_a_prompt_without_room_is_an_error(
    run: Callable[..., EvaluationResult], checkpoint: HFEngine, tmp_path: Path
) -> None:
    result = run(max_new_tokens=500)
    tokens = [checkpoint.tokenizer(row["prompt"])["input_ids"] for row in result.generations]
    assert max(map(len, tokens)) < 16  # the context of this model
    job = evaluation()
    long = dataclasses.replace(job, domain=dataclasses.replace(job.domain, prompt="0123456789abcdef {question}"))
    with pytest.raises(ConfigError, match=r"benchmark\.max_new_tokens=5 .*context of 16 tokens"):
        evaluate(checkpoint, long, EXECUTION, journal=tmp_path / "j")


def test_the_prompt_reaches_the_model_as_in_training(
    checkpoint: HFEngine, run: Callable[..., EvaluationResult]
) -> None:
    from bll_sweeps.training.data import tokenize

    domain = evaluation().domain
    (example, *_) = tokenize(held_out(SPELL), domain, checkpoint.tokenizer).examples
    prompt = run().generations[0]["prompt"]
    expected = list(example.input_ids[: example.prompt_tokens])
    assert checkpoint.tokenizer(prompt, add_special_tokens=False)["input_ids"] == expected


def test_braces_and_newlines_of_a_question_reach_the_prompt_unchanged(
    run: Callable[..., EvaluationResult], tmp_path: Path
) -> None:
    rows = [{"question": "{{a}} {% b %}\n", "answer": "x"}, {"question": " c ", "answer": "y"}]
    job_prompts = [row["prompt"] for row in run(**file_benchmark(tmp_path, rows)).generations]
    assert job_prompts == [f"{row['question']}\nAnswer: " for row in rows]


def test_a_folder_is_loaded_and_its_files_are_the_journals_key(folder: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    loaded = HFEngine.load(folder, EXECUTION)
    result = evaluate(
        loaded, evaluation(), EXECUTION, journal=tmp_path / "j", on_progress=lambda *seen: progress.append(seen)
    )
    assert len(result.generations) == 10 and progress[0] == (0, 50) and progress[-1] == (50, 50)
    same, other = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("same", "other"))
    weights = other / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert HFEngine.load(same, EXECUTION).digest == loaded.digest != HFEngine.load(other, EXECUTION).digest


def test_a_model_read_in_bfloat16_answers_in_it_and_has_a_journal_of_its_own(
    folder: Path, checkpoint: HFEngine, tmp_path: Path
) -> None:
    loaded = HFEngine.load(folder, EXECUTION, "bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.digest != checkpoint.digest
    assert len(evaluate(loaded, evaluation(), EXECUTION, journal=tmp_path / "j").generations) == 10


def test_nothing_is_printed_or_reseeded(
    run: Callable[..., EvaluationResult], capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    state, level = torch.random.get_rng_state(), logging.getLogger("lm_eval").level
    capfd.readouterr()
    run()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


def file_benchmark(tmp_path: Path, rows: list[Any]) -> dict[str, Any]:
    path = tmp_path / "benchmark.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "table", "data": table(path), "questions": 0}


def test_a_benchmark_file_that_cannot_be_used_is_named_before_anything_is_generated(
    run: Callable[..., EvaluationResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate", None)
    changes = file_benchmark(tmp_path, [{"question": "a b", "answer": "c"}, {"question": "a"}])
    with pytest.raises(ConfigError, match=r"benchmark\.data\.columns\.answer='answer' is not there.*line 2"):
        run(**changes)
    with pytest.raises(StoreError, match="has changed since it was planned"):
        run(**changes | {"data": dataclasses.replace(changes["data"], digest="0" * 64)})
    with pytest.raises(ConfigError, match=r"benchmark\.questions=31"):
        run(questions=31)
