"""`expunge import` on small logs and configurations of OpenUnlearning, written by hand in its formats."""

import json
from pathlib import Path

import pytest
import yaml

from expunge.commands.openunlearning.conversion import import_config
from expunge.commands.openunlearning.counterparts import METRICS, TRAINERS
from expunge.config.load import load_recipe, parse_member
from expunge.errors import ConfigError

COMPOSED = """
model:
  model_args: {pretrained_model_name_or_path: ./target, attn_implementation: sdpa, torch_dtype: bfloat16}
  tokenizer_args: {pretrained_model_name_or_path: ./target}
  template_args:
    apply_chat_template: true
    system_prompt: You are a helpful assistant.
    user_start_tag: "<|user|>"
    date_string: 10 Apr 2025
trainer:
  handler: SimNPO
  args:
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 8
    learning_rate: 1e-5
    bf16: true
    optim: paged_adamw_32bit
    num_train_epochs: 10
    weight_decay: 0.01
    warmup_epochs: 1.0
    lr_scheduler_type: constant
    save_strategy: 'no'
    eval_strategy: epoch
    eval_on_start: true
    seed: 0
    output_dir: ${paths.output_dir}
  method_args: {delta: 0.0, beta: 4.5, alpha: 1.0, gamma: 0.125, retain_loss_type: NLL}
data:
  forget:
    TOFU_QA_forget:
      handler: QADataset
      args:
        hf_args: {name: "${forget_split}", split: train, path: locuslab/TOFU}
        question_key: question
        answer_key: answer
        max_length: 512
  retain:
    TOFU_QA_retain:
      args: {hf_args: {name: retain95, split: train, path: locuslab/TOFU}, max_length: 512}
  anchor: forget
collator: {DataCollatorForSupervisedDataset: {handler: x}}
eval:
  tofu:
    handler: TOFUEvaluator
    forget_split: ${forget_split}
    retain_logs_path: saves/eval/retain95/TOFU_EVAL.json
    metrics: {forget_quality: {handler: ks_test}}
forget_split: forget05
retain_logs_path: saves/eval/retain95/TOFU_EVAL.json
mode: unlearn
task_name: my_task
paths: {output_dir: saves/unlearn/my_task}
surprise: 3
"""


@pytest.fixture
def composed(tmp_path: Path) -> Path:
    path = tmp_path / "saves" / "unlearn" / "my_task" / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(COMPOSED)
    return path


def test_composed_configuration_becomes_a_recipe(cli, composed, tmp_path):
    outcome = cli("import", composed, "--processes", "2", "--out", "mine.yaml")
    assert outcome.code == 0, outcome.err
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.name == "my_task"
    assert recipe.seed == 0
    assert recipe.method == parse_member(
        "method", {"name": "simnpo", "beta": 4.5, "gamma": 0.0, "forget_weight": 0.125}
    )
    assert recipe.train.batch_size == 4 * 8 * 2
    assert recipe.train.device_batch_size == 4
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.warmup_epochs) == (1e-5, 10, 1.0)
    assert (recipe.train.schedule, recipe.train.optimizer) == ("constant", "adamw_torch")
    assert (recipe.data.name, recipe.data.split) == ("tofu", "forget05")
    assert recipe.model.retain_model == "saves/eval/retain95/TOFU_EVAL.json"
    assert recipe.model.dtype == "bfloat16"
    assert (recipe.prompt.style, recipe.prompt.date) == ("chat", "10 Apr 2025")
    assert [benchmark.name for benchmark in recipe.evaluate.benchmarks] == ["tofu"]
    comments = (tmp_path / "mine.yaml").read_text()
    for key in ("surprise = 3: no counterpart", "trainer.args.save_strategy", "model.template_args.user_start_tag"):
        assert key in comments, key


def test_every_key_is_converted_or_named(composed):
    """Removing any one value changes the recipe or the list of keys without a counterpart."""
    imported = import_config(composed)
    data = yaml.safe_load(COMPOSED)
    # torch_dtype sets the precision too, and without `optim` the optimiser is the same.
    args = set(data["trainer"]["args"]) - {"bf16", "optim"}
    for key in [*args, *data["trainer"]["method_args"]]:
        changed = yaml.safe_load(COMPOSED)
        section = "args" if key in changed["trainer"]["args"] else "method_args"
        del changed["trainer"][section][key]
        composed.write_text(yaml.safe_dump(changed))
        other = import_config(composed)
        assert (other.recipe, other.without_counterpart) != (imported.recipe, imported.without_counterpart), key


def test_experiment_with_defaults_and_overrides(cli, tmp_path):
    configs = tmp_path / "configs"
    files = {
        "trainer/finetune.yaml": "handler: None\nargs: {learning_rate: 1e-5, num_train_epochs: 10, seed: 0}\n",
        "trainer/GradDiff.yaml": "defaults: [finetune]\nhandler: GradDiff\n"
        "method_args: {gamma: 1.0, alpha: 2.0, retain_loss_type: KL}\n",
        "trainer/NPO.yaml": "defaults: [GradDiff]\nhandler: NPO\nmethod_args: {beta: 0.05}\n",
        "experiment/unlearn/tofu/default.yaml": """# @package _global_
defaults:
  - override /model: Llama-9
  - override /trainer: GradDiff
  - override /eval: tofu
model: {model_args: {pretrained_model_name_or_path: ./target}}
forget_split: forget10
data: {forget: {TOFU_QA_forget: {args: {hf_args: {name: "${forget_split}"}}}}}
trainer: {args: {warmup_epochs: 1.0}}
task_name: ???
""",
    }
    for name, text in files.items():
        (configs / name).parent.mkdir(parents=True, exist_ok=True)
        (configs / name).write_text(text)
    experiment = configs / "experiment/unlearn/tofu/default.yaml"
    outcome = cli("import", experiment, "trainer=NPO", "forget_split=forget01", "trainer.args.num_train_epochs=5")
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load(outcome.out)
    assert recipe["method"] == {"name": "npo", "beta": 0.05, "forget_weight": 1.0, "retain_weight": 2.0, "retain": "kl"}
    assert recipe["data"] == {"name": "tofu", "split": "forget01"}
    assert (recipe["train"]["epochs"], recipe["train"]["warmup_epochs"]) == (5, 1.0)
    assert recipe["evaluate"]["benchmarks"] == ["tofu"]
    assert "model/Llama-9" in outcome.out


@pytest.mark.parametrize("name", TRAINERS)
def test_each_trainer_alone(name, tmp_path):
    """A trainer's file gives a valid method and train section, with its own defaults where it names them."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"defaults: [finetune]\nhandler: {name}\n")
    imported = import_config(path)
    assert not imported.complete
    assert imported.recipe["method"]["name"] == TRAINERS[name].method
    assert (imported.recipe["train"]["lr"], imported.recipe["train"]["batch_size"]) == (1e-5, 32)


def test_rmu_and_pdu_and_ceu(tmp_path):
    path = tmp_path / "trainer.yaml"
    path.write_text(
        r"""
handler: RMU
args: {gradient_accumulation_steps: 4}
method_args:
  steering_coeff: 20
  alpha: 1000
  gamma: 1.0
  retain_loss_type: EMBED_DIFF
  module_regex: model\.layers\.7
  trainable_params_regex: ['model\.layers\.(5|6|7)\.mlp\.down_proj\.weight']
"""
    )
    method = import_config(path).recipe["method"]
    assert method == {
        "name": "rmu",
        "positions": "labels",
        "layer": 7,
        "update_layers": [5, 6, 7],
        "update_modules": ["mlp.down_proj.weight"],
        "c": [20],
        "alpha": [1000],
    }
    everything = import_config(path, ["method_args.trainable_params_regex=.*", "method_args.gamma=2"])
    assert {key.partition(" ")[0] for key in everything.without_counterpart} >= {
        "trainer.method_args.trainable_params_regex",
        "trainer.method_args.gamma",
    }
    path.write_text(
        "handler: PDU\nargs: {gradient_accumulation_steps: 4}\n"
        "method_args: {retain_loss_eps: 0.3, dual_step_size: 5, dual_warmup_epochs: 2, alpha: 100, primal_dual: true}\n"
    )
    # One update per step in place of one in each of 4 micro-batches.
    assert import_config(path).recipe["method"] == {
        "name": "pdu",
        "lambda_0": 100,
        "epsilon": 0.3,
        "eta": 20,
        "dual_warmup_epochs": 2,
    }
    path.write_text("handler: CEU\nmethod_args: {ignore_first_n_answer_tokens: 3}\n")
    assert "trainer.method_args.ignore_first_n_answer_tokens = 3" in import_config(path).without_counterpart


def test_muse_and_wmdp_data(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        """
model: {model_args: {pretrained_model_name_or_path: ./target}}
trainer: {handler: GradDiff, args: {learning_rate: 1e-5}}
data_split: Books
data:
  forget: {MUSE_forget: {args: {hf_args: {path: muse-bench/MUSE-Books, name: raw, split: forget}, text_key: text,
    max_length: 2048}}}
  retain: {cyber: {args: {hf_args: {path: text, data_files: data/wmdp/cyber.jsonl, split: train}, text_key: text}}}
eval:
  muse: {retain_logs_path: saves/MUSE_EVAL.json}
  lm_eval: {tasks: [wmdp_cyber, mmlu, gsm8k]}
"""
    )
    imported = import_config(path)
    data = imported.recipe["data"]
    assert data["forget"] == {
        "path": "muse-bench/MUSE-Books",
        "config": "raw",
        "split": "forget",
        "columns": {"text": "text"},
    }
    assert data["retain"] == {"path": "data/wmdp/cyber.jsonl", "columns": {"text": "text"}}
    assert data["long_text"] == "chunk"
    assert imported.recipe["train"]["max_length"] == 2048
    assert imported.recipe["evaluate"]["benchmarks"] == [
        {"name": "muse", "path": "muse-bench/MUSE-Books", "stem": True},
        {"name": "wmdp", "topics": ["cyber"]},
        "mmlu",
    ]
    assert "eval.lm_eval.tasks: gsm8k" in imported.without_counterpart
    assert any(key.startswith("retain_logs_path") for key in imported.without_counterpart)


def test_unknown_trainer_and_finetuning_are_refused(tmp_path):
    path = tmp_path / "trainer.yaml"
    path.write_text("handler: SimNPOO\n")
    with pytest.raises(ConfigError, match="Did you mean 'SimNPO'"):
        import_config(path)
    path.write_text("mode: finetune\ntrainer: {handler: FinetuneTrainer}\n")
    with pytest.raises(ConfigError, match="target:"):
        import_config(path)


def test_tofu_summary(cli, tmp_path):
    summary = {
        "forget_quality": 0.4,
        "model_utility": 0.6,
        "forget_Q_A_Prob": 0.25,
        "mia_min_k": 0.9,
        "privleak": -80.0,
    }
    path = tmp_path / "TOFU_SUMMARY.json"
    path.write_text(json.dumps({**summary, "forget_Q_A_PARA_Prob": 0.1}))
    log = json.loads(cli("import", path, "--json").out)["logs"][0]
    assert log["unknown"] == ["forget_Q_A_PARA_Prob"]
    points = {name: value["point"] for name, value in log["stored"].items()}
    assert points == {
        "forget_quality": 0.4,
        "model_utility": 0.6,
        "forget/probability": 0.25,
        "membership/min_k_auc": 0.9,
        "membership/privleak": -80.0,
    }
    assert set(log["result"]["headlines"]) == {"forget_quality", "model_utility"}
    text = cli("import", path).out
    assert "Forget quality" in text
    assert "Without a counterpart: forget_Q_A_PARA_Prob" in text


def test_tofu_eval_is_computed_again(cli, tmp_path):
    """Losses 0 and ln 2 give the probabilities 1 and 1/2; the stored mean is one that these rows do not have."""
    rows = {"0": {"avg_loss": 0.0, "prob": 1.0}, "1": {"avg_loss": 0.6931471805599453, "prob": 0.5}}
    folder = tmp_path / "evals"
    folder.mkdir()
    stored = {"forget_Q_A_Prob": {"agg_value": 0.9, "value_by_index": rows}, "mia_loss": {"agg_value": 0.7, "auc": 0.7}}
    (folder / "TOFU_EVAL.json").write_text(json.dumps(stored))
    (folder / "TOFU_SUMMARY.json").write_text(json.dumps({"forget_Q_A_Prob": 0.9}))
    outcome = cli("import", folder, "--json")
    logs = json.loads(outcome.out)["logs"]
    assert [Path(log["path"]).name for log in logs] == ["TOFU_EVAL.json"]
    assert logs[0]["stored"]["forget/probability"]["point"] == 0.9
    assert logs[0]["computed"]["metrics"]["forget/probability"]["point"] == pytest.approx(0.75)
    assert logs[0]["result"]["metrics"]["forget/probability"]["point"] == pytest.approx(0.75)
    assert logs[0]["result"]["metrics"]["membership/loss_auc"]["point"] == 0.7
    assert "model.retain_model=" in cli("import", folder).err
    # Compared with itself, the distance between the distributions of truth ratios cannot be computed: it has none.
    compared = cli("import", folder, "--retain-model", folder / "TOFU_EVAL.json", "--json")
    assert "truth ratios" in json.loads(compared.out)["logs"][0]["result"]["headlines"]["forget_quality"]["needs"]


def test_muse_and_lm_eval_summaries(cli, tmp_path):
    muse = {"forget_knowmem_ROUGE": 0.25, "forget_verbmem_ROUGE": 0.5, "privleak": -99.0, "extraction_strength": 0.1}
    (tmp_path / "MUSE_SUMMARY.json").write_text(json.dumps(muse))
    (tmp_path / "LMEval_SUMMARY.json").write_text(
        json.dumps({"wmdp_cyber/acc": 0.3, "wmdp_cyber/acc_stderr": 0.01, "mmlu/acc": 0.5, "arc/acc": 0.2})
    )
    lm_eval, muse = json.loads(cli("import", tmp_path, "--json").out)["logs"]
    headlines = {name: value["point"] for name, value in muse["result"]["headlines"].items()}
    assert headlines == {"knowmem_forget": 25.0, "verbmem_forget": 50.0, "privleak": -99.0}
    assert muse["unknown"] == ["extraction_strength"]
    cyber = lm_eval["result"]["headlines"]["wmdp_cyber"]
    assert (cyber["low"], cyber["high"]) == (pytest.approx(0.3 - 0.0196), pytest.approx(0.3 + 0.0196))
    assert lm_eval["unknown"] == ["arc/acc"]
    assert set(lm_eval["result"]["headlines"]) == {"wmdp_cyber", "mmlu"}


def test_mistakes(cli, tmp_path, composed):
    (tmp_path / "other_SUMMARY.json").write_text('{"loss": 1}')
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["nowhere.json"], "does not exist"),
        ([tmp_path / "other_SUMMARY.json"], "its keys are loss"),
        ([tmp_path / "empty"], "no *_EVAL.json"),
        ([composed, "--retain-model", "x.json"], "--retain-model has no effect on a configuration"),
        ([tmp_path / "other_SUMMARY.json", "trainer=NPO"], "KEY=VALUE has no effect on logs"),
    ):
        outcome = cli("import", *words)
        assert outcome.code == 2
        assert message in outcome.err, outcome.err


def test_counterparts_cover_openunlearning():
    """Its 11 trainers, and every metric that it registers."""
    assert len(TRAINERS) == 11
    assert len(METRICS) == 17
    for name, trainer in TRAINERS.items():
        method = parse_member("method", {"name": trainer.method, **trainer.fixed})
        assert set(trainer.settings.values()) <= set(type(method).model_fields), name
