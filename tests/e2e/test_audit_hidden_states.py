"""`expunge audit depth` and `expunge audit probe`: what they need, what they record."""

import json


def test_depth_needs_target_and_retain_model(cli, tiny_model, recipe_file):
    done = cli("audit", tiny_model, "depth", "--data", recipe_file.parent / "forget.jsonl")
    assert done.code == 2
    assert "depth: needs the target and the retain model" in " ".join(done.err.split())


def test_depth_of_equal_models(cli, tiny_model, tmp_path, recipe_file):
    controls = ["--target", tiny_model, "--retain-model", tiny_model, "--data", recipe_file.parent / "forget.jsonl"]
    done = cli("audit", tiny_model, "depth", *controls, "--out", tmp_path / "found")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "found/audits/depth.json").read_text())
    by_name = {(finding["attempt"], finding["measure"]): finding for finding in record["findings"]}
    assert by_name["before", "span probability"]["excess"]["point"] == 0
    # The retain model loses nothing in any layer, so no layer bears knowledge and nothing is measured.
    assert by_name["uds", "depth"]["excess"]["point"] is None
    assert by_name["uds", "depth"]["facts"]["rows_with_knowledge"] == 0
    assert by_name["patching", "span probability"]["facts"]["loss_layer_0"] == 0


def test_probe_needs_wrong_answers(cli, tiny_model, recipe_file):
    done = cli("audit", tiny_model, "probe", "--data", recipe_file.parent / "forget.jsonl")
    assert done.code == 2
    assert "needs forget rows with a question and wrong answers" in " ".join(done.err.split())


def test_unknown_setting(cli, tiny_model, recipe_file):
    done = cli("audit", tiny_model, "probe", "--data", recipe_file.parent / "forget.jsonl", "--set", "pool=mean")
    assert done.code == 2
    assert "pooling" in done.err
