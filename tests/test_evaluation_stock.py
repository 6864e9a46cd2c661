"""lm-eval's own tasks, over made-up copies of their data sets in the format of the hub's repositories."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bll_sweeps.cli.composing import hydra_on_conf
from bll_sweeps.errors import ConfigError, StoreError
from bll_sweeps.evaluation import engine as engines
from bll_sweeps.evaluation.engine import HFEngine
from bll_sweeps.evaluation.harness import EvaluationResult, evaluate
from bll_sweeps.evaluation.scores import question_means
from bll_sweeps.evaluation.stock import plan_task, sampling, stock_task
from bll_sweeps.evaluation.task_files import task_digest
from bll_sweeps.grid.axes import Backbone, canonical_json, identity
from bll_sweeps.grid.cell import EvaluateJob
from bll_sweeps.grid.hub import Lock, LockedFiles, write_lock
from bll_sweeps.grid.schema import resolve as resolving
from bll_sweeps.grid.schema.resolve import Resolver
from bll_sweeps.grid.settings import Execution
from bll_sweeps.lab.random_model import random_model
from bll_sweeps.store.records import file_sha256
from bll_sweeps.training.model import save_model
from bll_sweeps.training.rows import question_id

EXECUTION = Execution(name="cpu", eval_batch=4)
LABELS = ["A", "B", "C", "D"]
ARC = [
    {
        "id": f"Mercury_{i}",
        "question": question,
        "choices": {"text": texts, "label": LABELS[: len(texts)]},
        "answerKey": LABELS[right],
    }
    for i, (question, texts, right) in enumerate(
        [
            ("Which of these is a mammal?", ["a trout", "a bat", "a hen", "an ant"], 1),
            ("What do plants take in?", ["iron", "carbon dioxide", "plastic"], 1),
            ("Which one is hottest?", ["ice", "water", "steam", "snow"], 2),
            ("Which of these is a mammal?", ["a cod", "a wren", "a whale", "a wasp"], 2),
            ("What pulls things down?", ["gravity", "light", "sound", "heat"], 0),
        ]
    )
]
GSM8K = [
    {
        "question": f"Tom has {i} apples and buys {i + 1} more. How many now?",
        "answer": f"{i}+{i + 1}\n#### {2 * i + 1}",
    }
    for i in range(2, 14)
]
README = """---
configs:
{configs}---
# Made up, in the format of the hub's repository.
"""


def write_data_set(folder: Path, name: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in splits)
    (folder / "README.md").write_text(README.format(configs=f"- config_name: {name}\n  data_files:\n{files}"))
    (folder / name).mkdir()
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / name / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mirror")
    arc = {"train": ARC[:1], "validation": ARC[:1], "test": ARC}
    write_data_set(path / "allenai/ai2_arc", "ARC-Easy", arc)
    write_data_set(path / "openai/gsm8k", "main", {"train": GSM8K[:8], "test": GSM8K[8:]})
    return path


@pytest.fixture(scope="module", params=["llama", "qwen"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture = {"llama": "llama", "qwen": "qwen2"}[family]
    backbone = Backbone(name="tiny", source="random", architecture=architecture, template=family)  # type: ignore[arg-type]
    model, tokenizer = random_model(backbone)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # strong opinions
    path = tmp_path_factory.mktemp(family) / "model"
    save_model(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> HFEngine:
    return HFEngine.load(folder, EXECUTION)


@pytest.fixture(scope="module")
def resolve() -> Iterator[Callable[..., EvaluateJob]]:
    """`resolve("arc_easy", mirror, **benchmark settings)`: the job of a configuration, as a launch makes it."""
    from omegaconf import OmegaConf

    def call(task: str, mirror: Path | str, **settings: Any) -> EvaluateJob:
        settings = {"max_new_tokens": 12, "questions": 0, "temperature": 0.0} | settings
        temperature, more = settings.pop("temperature"), settings.pop("overrides", [])
        overrides = [
            *("objective=base", "benchmark=lab-tiny", "benchmark.source=lm_eval", f"benchmark.task={task}"),
            *("~benchmark.decodings.sampled", "benchmark.primary=greedy", f"paths.mirror={mirror}"),
            f"benchmark.decodings.greedy.temperature={temperature}",
            *(f"benchmark.{key}={value}" for key, value in settings.items()),
            *more,
        ]
        resolving._hub.cache_clear()  # a launch reads a mirror once
        config = OmegaConf.to_container(hydra.compose_config("cell", overrides, _run_mode()), resolve=True)
        return Resolver(task_digest, plan_task)(config, []).cell.evaluate  # type: ignore[arg-type]

    with hydra_on_conf() as hydra:
        yield call


def _run_mode() -> Any:
    from hydra.types import RunMode

    return RunMode.MULTIRUN


def run(engine: HFEngine, job: EvaluateJob, journal: Path, earlier: Any = ()) -> EvaluationResult:
    return evaluate(engine, job, EXECUTION, journal=journal, earlier=earlier)


def direct(engine: HFEngine, context: str, continuation: str) -> tuple[float, bool]:
    """Of one pair alone, unpadded and token by token."""
    tokenizer = engine.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    first = bos + tokenizer(context, add_special_tokens=False)["input_ids"]
    whole = bos + tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = engine.model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    places = range(len(first), len(whole))
    return sum(float(logp[i - 1, whole[i]]) for i in places), all(int(logp[i - 1].argmax()) == whole[i] for i in places)


# --- multiple choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_multiple_choice_is_scored_by_the_log_likelihood_of_each_choice(
    metric: str, engine: HFEngine, resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path
) -> None:
    result = run(engine, resolve("arc_easy", mirror, metric=metric), tmp_path / "j")
    grader = f"lm_eval.{metric}-v1"
    assert [row["prompt"] for row in result.generations] == [f"Question: {row['question']}\nAnswer:" for row in ARC]
    for row, document, scored in zip(result.generations, ARC, result.rows[grader], strict=True):
        texts: list[str] = document["choices"]["text"]  # type: ignore[index]
        expected = [direct(engine, row["prompt"], f" {text}")[0] for text in texts]
        assert row["log_likelihoods"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        best = max(range(len(texts)), key=lambda i: expected[i] / (len(texts[i]) if metric == "acc_norm" else 1))
        assert row["greedy"] == [LABELS[best]] and row["gold"] == document["answerKey"]
        assert row["options"] == [list(pair) for pair in zip(LABELS, texts, strict=False)]
        assert scored == {
            "question": row["question"],
            "greedy": [float(LABELS[best] == document["answerKey"])],
            "answers": {"greedy": [LABELS[best]]},
            "kinds": {"greedy": ["likelihood"]},
        }
    assert result.generations[0]["question"] == question_id(result.generations[0]["prompt"])
    assert len({row["question"] for row in result.generations}) == 5  # two of them are asked in the same words
    summary = result.summary
    assert {summary[key] for key in ("engine", "grader", "benchmark")} == {"hf", grader, "lab-tiny"}
    assert summary["metrics"]["greedy"]["mean"] == np.mean(question_means(result.rows[grader], "greedy"))
    assert summary["lm_eval"][f"{metric},none"] == summary["metrics"]["greedy"]["mean"]
    assert summary["seen_in_training"] is None and summary["metrics"]["greedy"]["questions"] == 5
    json.dumps([result.generations, result.rows, summary], allow_nan=False)


def test_a_task_may_ask_for_one_continuation_or_of_several_contexts(
    engine: HFEngine, resolve: Callable[..., EvaluateJob], tmp_path: Path
) -> None:
    texts = [{"text": f"he said to {name} that he was tired of {name}"} for name in ("Ann", "Bob")]
    write_data_set(tmp_path / "EleutherAI/lambada_openai", "default", {"test": texts})
    sentences = [
        {
            "sentence": "The cup left the box as _ was big.",
            "option1": "the cup",
            "option2": "the box",
            "answer": "1",
        },
        {"sentence": "Ann thanked Eve since _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    ]
    write_data_set(tmp_path / "allenai/winogrande", "winogrande_xl", {"train": sentences, "validation": sentences})
    one = run(engine, resolve("lambada_openai", tmp_path, metric="acc"), tmp_path / "a")
    for row, text in zip(one.generations, texts, strict=True):
        context, _, word = text["text"].rpartition(" ")
        logp, greedy = direct(engine, context, f" {word}")
        assert row["log_likelihoods"] == pytest.approx([logp], rel=1e-4) and row["gold"].strip() == word
        assert row["greedy"] == ([f" {word}"] if greedy else [""])
    several = run(engine, resolve("winogrande", tmp_path, metric="acc"), tmp_path / "b")
    for row, of in zip(several.generations, sentences, strict=True):
        before, _, after = of["sentence"].partition("_")
        pairs = [direct(engine, before + of[f"option{i}"], after)[0] for i in (1, 2)]
        assert row["log_likelihoods"] == pytest.approx(pairs, rel=1e-4)
    scores = [row["greedy"] for row in several.rows["lm_eval.acc-v1"]]
    assert scores == [[float(row["greedy"] == [row["gold"]])] for row in several.generations]


def test_log_likelihoods_are_those_of_each_pair_alone(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    encode = engine.tokenizer.encode
    eos = engine.tokenizer.eos_token_id
    bos = () if family == "qwen" else (engine.tokenizer.bos_token_id,)
    texts = [
        ("a b", " c"),
        ("a much longer context of words", " x"),
        ("a", " and a long continuation"),
        ("", "z"),
    ]
    pairs = [
        ((*bos, *encode(a, add_special_tokens=False)), tuple(encode(b, add_special_tokens=False))) for a, b in texts
    ]
    found = engine.log_likelihoods(pairs)
    for (context, continuation), one in zip(pairs, found, strict=True):
        ids = [*(context or (eos,)), *continuation]
        with torch.no_grad():
            logp = engine.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        start = len(ids) - len(continuation)
        assert one.logp == pytest.approx(sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids))), rel=1e-4)
    monkeypatch.setattr("bll_sweeps.evaluation.sampling.PASS_TOKENS", 1)  # each in a pass of its own
    assert [one.logp for one in engine.log_likelihoods(pairs)] == pytest.approx([one.logp for one in found], rel=1e-4)


def test_a_continuation_is_greedy_if_every_token_of_it_is_the_most_probable(engine: HFEngine) -> None:
    context = tuple(engine.encode("Question: a?\nAnswer:"))
    ids = list(context)
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    said = tuple(ids[len(context) :])
    other = (*said[:2], (said[2] + 1) % 200)
    assert [one.greedy for one in engine.log_likelihoods([(context, said), (context, other)])] == [True, False]


def test_a_broken_model_is_an_error_and_no_score(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.full((1, 1, engine.model.config.vocab_size), float("nan"))
    monkeypatch.setattr(engine.model, "forward", lambda **_: SimpleNamespace(logits=logits))
    with pytest.raises(ArithmeticError, match="not finite"):
        engine.log_likelihoods([((1, 2), (3,))])


# --- generation -------------------------------------------------------------------------------------------------------


def test_generation_is_asked_for_with_the_tasks_examples_and_stops(
    engine: HFEngine, resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["so it is 9.\n#### 21 apples\n\nQuestion: next", " 23", "#### 5", "no idea"]
    asked: list[Any] = []

    def answered(model: Any, prompts: Any, streams: Any, temperature: float, stops: Any, **_: Any) -> list[list[int]]:
        asked.extend((temperature, len(stream)) for stream in streams)
        texts = [engine.tokenizer.decode(list(prompt)) for prompt in prompts]
        answers = [said[next(i for i, row in enumerate(GSM8K[8:]) if row["question"] in text)] for text in texts]
        return [engine.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]

    monkeypatch.setattr(engines, "generate", answered)
    strict, flexible = (
        run(engine, resolve("gsm8k", mirror, metric=f"exact_match/{kind}"), tmp_path / kind)
        for kind in ("strict-match", "flexible-extract")
    )
    assert set(asked) == {(0.0, 12)}  # max_new_tokens, since the task does not say
    for row, document in zip(strict.generations, GSM8K[8:], strict=True):
        prompt = row["prompt"]
        assert prompt.endswith(f"Question: {document['question']}\nAnswer:") and prompt.count("Question: ") == 6
        assert sum(f"Question: {shot['question']}\nAnswer: {shot['answer']}" in prompt for shot in GSM8K[:8]) == 5
        assert row["question"] == question_id(f"Question: {document['question']}\nAnswer:")
        assert row["gold"] == document["answer"]
    assert [row["greedy"][0] for row in strict.generations] == ["so it is 9.\n#### 21 apples\n\n", *said[1:]]
    rows = strict.rows["lm_eval.exact_match.strict-match-v1"]
    assert [row["greedy"] for row in rows] == [[1.0], [0.0], [0.0], [0.0]]
    assert [row["kinds"]["greedy"][0] for row in rows] == ["lm_eval", "none", "lm_eval", "none"]
    assert [row["answers"]["greedy"][0] for row in rows] == ["21", "", "5", ""]
    found = [row["greedy"] for row in flexible.rows["lm_eval.exact_match.flexible-extract-v1"]]
    assert found == [[1.0], [1.0], [0.0], [0.0]]
    assert flexible.summary["lm_eval"] == strict.summary["lm_eval"]
    assert flexible.summary["metrics"]["greedy"]["no_answer"] == 0.25


@pytest.mark.slow
def test_a_model_answers_a_task_as_lm_evals_own_model_does(
    engine: HFEngine, folder: Path, resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path
) -> None:
    """simple_evaluate, the examples' seeds included, over transformers' own generation."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name, metric in (("arc_easy", "acc_norm"), ("gsm8k", "exact_match/flexible-extract")):
        stock = stock_task(name)
        local = {"task": name, "include": str(stock.file), "dataset_path": str(mirror / stock.data_set)}
        place = tmp_path / name
        place.mkdir()
        (place / "task.yaml").write_text(json.dumps(local | {"dataset_kwargs": {"cache_dir": str(place / "cache")}}))
        theirs = lm_eval.simple_evaluate(
            model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1),
            tasks=[name],
            task_manager=TaskManager(include_path=str(place), include_defaults=False),
            bootstrap_iters=0,
            gen_kwargs="max_gen_toks=12" if name == "gsm8k" else None,
        )
        ours = run(engine, resolve(name, mirror, metric=metric), tmp_path / f"{name}.journal")
        key, filter_ = stock.split_metric(metric)
        samples = [sample for sample in theirs["samples"][name] if sample["filter"] == filter_]
        assert ours.summary["lm_eval"][f"{key},{filter_}"] == theirs["results"][name][f"{key},{filter_}"]
        assert [row["prompt"] for row in ours.generations] == [sample["arguments"][0][0] for sample in samples]
        if name == "gsm8k":
            assert [row["greedy"] for row in ours.generations] == [sample["resps"][0] for sample in samples]
        else:
            for row, sample in zip(ours.generations, samples, strict=True):
                expected = [float(of[0][0]) for of in sample["resps"]]
                assert row["log_likelihoods"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("task", "metric"), [("arc_easy", "acc"), ("gsm8k", "exact_match/strict-match")])
def test_an_interrupted_task_goes_on_and_ends_with_the_same(
    task: str,
    metric: str,
    engine: HFEngine,
    resolve: Callable[..., EvaluateJob],
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = resolve(task, mirror, metric=metric, questions=4)
    execution = dataclasses.replace(EXECUTION, eval_batch=2)
    small = HFEngine(engine.model, engine.tokenizer, engine.digest, 2)
    expected = evaluate(small, job, execution, journal=tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert len(lines) == (8 if task == "arc_easy" else 2) and len(expected.generations) == 4
    (tmp_path / "torn").write_bytes(b"".join(lines[:1]) + lines[1][:40])
    states = random.getstate(), torch.random.get_rng_state()
    assert evaluate(small, job, execution, journal=tmp_path / "b", earlier=[tmp_path / "torn"]) == expected
    assert (tmp_path / "b").read_bytes() == b"".join(lines[1:])
    assert random.getstate() == states[0] and torch.equal(torch.random.get_rng_state(), states[1])


# --- data, and what is wrong with it ----------------------------------------------------------------------------------


def test_a_job_is_named_by_task_data_and_metric_wherever_the_data_lie(
    resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path
) -> None:
    job = resolve("arc_easy", mirror, metric="acc")
    assert job.benchmark.mirror == str(mirror / "allenai/ai2_arc") and job.benchmark.graders == ()
    assert job.benchmark.data.hub == "allenai/ai2_arc" and len(job.benchmark.data.paths) == 4
    assert str(mirror) not in canonical_json(identity(job.benchmark))
    moved = Path(shutil.copytree(mirror, tmp_path / "moved"))
    assert resolve("arc_easy", moved, metric="acc").id == job.id
    others = [
        resolve("arc_easy", mirror, metric="acc_norm"),
        resolve("gsm8k", mirror, metric="exact_match/strict-match"),
    ]
    (moved / "allenai/ai2_arc/README.md").write_text("another")
    others.append(resolve("arc_easy", moved, metric="acc"))
    unfetched = resolve("arc_easy", "", metric="acc")
    assert unfetched.benchmark.mirror == "" and unfetched.benchmark.data.digest == ""
    assert len({job.id, unfetched.id, *(other.id for other in others)}) == 5


def test_a_data_set_that_was_fetched_is_read_where_the_hubs_client_keeps_it(
    engine: HFEngine,
    resolve: Callable[..., EvaluateJob],
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrored = resolve("gsm8k", mirror, metric="exact_match/strict-match")
    commit, cache = "a" * 40, tmp_path / "cache"
    snapshot, blobs, sums = cache / f"datasets--openai--gsm8k/snapshots/{commit}", tmp_path / "blobs", {}
    blobs.mkdir()
    (mirror / "openai/gsm8k/.gitattributes").write_text("*.parquet filter=lfs")
    for path in sorted(path for path in (mirror / "openai/gsm8k").rglob("*") if path.is_file()):
        name = path.relative_to(mirror / "openai/gsm8k").as_posix()
        sums[name] = file_sha256(path)
        shutil.copy(path, blobs / sums[name])
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / sums[name])
    write_lock(tmp_path / "lock.json", Lock(data={"openai/gsm8k": LockedFiles("main", commit, sums, ("[!.]*",))}))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    overrides = [f"paths.lock={tmp_path}/lock.json"]
    fetched = resolve("gsm8k", "", metric="exact_match/strict-match", overrides=overrides)
    assert fetched.id == mirrored.id and fetched.benchmark.mirror == str(snapshot)
    expected = run(engine, mirrored, tmp_path / "a")
    assert run(engine, fetched, tmp_path / "b") == expected


def test_a_data_set_may_be_folders_of_parquet_or_jsonl_without_a_description(
    engine: HFEngine, resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path
) -> None:
    expected = run(engine, resolve("gsm8k", mirror, metric="exact_match/strict-match"), tmp_path / "a")
    plain = tmp_path / "plain"
    write_data_set(plain / "openai/gsm8k", "main", {"train": GSM8K[:8], "test": GSM8K[8:]})
    (plain / "openai/gsm8k/README.md").unlink()
    jsonl = tmp_path / "jsonl/openai/gsm8k/main"
    jsonl.mkdir(parents=True)
    for split, rows in (("train", GSM8K[:8]), ("test", GSM8K[8:])):
        (jsonl / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i, place in enumerate((plain, tmp_path / "jsonl")):
        job = resolve("gsm8k", place, metric="exact_match/strict-match")
        assert run(engine, job, tmp_path / f"j{i}").generations == expected.generations


@pytest.mark.parametrize(
    ("task", "settings", "problem"),
    [
        ("arc_esy", {}, "benchmark.task='arc_esy' is no task of lm-eval's; did you mean 'arc_easy'?"),
        ("mmlu", {}, "benchmark.task='mmlu' is a group of lm-eval's: a benchmark is one task"),
        (
            "arc_easy",
            {},
            "benchmark.metric='' must say which metric of task arc_easy counts (choose from acc, ",
        ),
        ("arc_easy", {"metric": "acc_nrm"}, "of task arc_easy is unknown; did you mean 'acc_norm'? (choose from acc, "),
        ("gsm8k", {"metric": "exact_match"}, "(choose from exact_match/strict-match, exact_match/flexible-extract)"),
        ("wikitext", {}, "asks for rolling log-likelihoods (perplexity)"),
        ("humaneval", {}, "runs code that models write"),
        ("squadv2", {}, "is a Python class"),
        ("arc_easy", {"metric": "acc", "temperature": 0.5}, "greedy.temperature=0.5 is not that of task arc_easy, 0"),
        ("piqa", {"metric": "acc"}, "paths.mirror="),
        (
            "arc_easy",
            {"metric": "acc", "overrides": ["execution.engine=vllm", "execution.vllm_python=/python"]},
            "execution.engine='vllm' makes no log-likelihoods, which benchmark.task='arc_easy' asks for: hf does",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_launched(
    task: str, settings: dict[str, Any], problem: str, resolve: Callable[..., EvaluateJob], mirror: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(task, mirror, **settings)
    assert problem in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_found_out_at_the_data_names_the_benchmark(
    engine: HFEngine, resolve: Callable[..., EvaluateJob], mirror: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.questions=6 is more than there are: 5"):
        run(engine, resolve("arc_easy", mirror, metric="acc", questions=6), tmp_path / "a")
    moved = Path(shutil.copytree(mirror, tmp_path / "moved"))
    job = resolve("arc_easy", moved, metric="acc")
    (moved / "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet").write_bytes(b"torn")
    with pytest.raises(StoreError, match="has changed since it was planned"):
        run(engine, job, tmp_path / "b")
    with pytest.raises(
        ConfigError, match=r"benchmark\.task='arc_easy' cannot be loaded from the data set .*ai2_arc in "
    ):
        run(engine, resolve("arc_easy", moved, metric="acc"), tmp_path / "c")


def test_generation_kwargs_of_tasks_are_read_as_lm_eval_means_them() -> None:
    assert sampling({"until": "\n", "do_sample": False, "temperature": 1.0}, 5) == (0.0, ("\n",), 5)
    assert sampling({"until": ["a", ""], "temperature": 0.7, "max_gen_toks": 3}, 5) == (0.7, ("a",), 3)
    assert sampling({"do_sample": True, "temperature": 0.0, "top_p": 0.9}, 5) == (0.0, (), 5)
    with pytest.raises(ConfigError, match=r"top_p=0\.9.* is what the task asks for"):
        sampling({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, 5)


@pytest.mark.slow
def test_tasks_are_found_as_lm_eval_finds_them() -> None:
    from lm_eval.tasks import TaskManager

    from bll_sweeps.evaluation.stock import _index

    manager = TaskManager()
    tasks, groups = _index()
    assert {name: manager.task_index[name].yaml_path for name in manager.all_subtasks} == tasks
    assert set(manager.all_groups) <= groups
