"""Held-out responses: two rounds give what one gives, adapters and other backends are asked, a missing one is an error."""

import logging

import pytest

from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError
from spatial_edit_reward.inference.store import read_header, read_responses
from tests.conftest import BASE
from tests.endpoint import chat


@pytest.fixture
def make_plan(small_data):
    """The plan of the first `count` held-out rows, with other limits of the spec."""
    from data.rows import load_rows
    from evaluation.heldout import plan_heldout

    def make(count=16, **limits):
        spec = load_spec(small_data).model_copy(update=limits)
        return plan_heldout(load_rows(small_data / "heldout.parquet", spec).select(range(count)), spec)

    return make


def write(plan, file, batch_size=8, **changes):
    from evaluation.heldout import write_responses

    options = {"name": "base", "weights": str(BASE), "adapter": None, "backend": "transformers", **changes}
    write_responses(plan=plan, batch_size=batch_size, file=file, **options)
    return read_responses(file)


def test_completions_cut_off_in_the_first_round_are_written_in_whole(make_plan, tmp_path):
    from spatial_edit_reward.chat import prompt_messages
    from spatial_edit_reward.inference.generation import generate_batch
    from spatial_edit_reward.inference.model import load_for_inference

    plan = make_plan(max_new_tokens=60)
    responses = write(plan, tmp_path / "base.jsonl")
    model, processor = load_for_inference(str(BASE), plan.spec)
    requests = [plan.request(name) for name in plan.names(1)]
    chats = [prompt_messages(request.task, request.instruction, plan.spec) for request in requests]
    at_once = generate_batch(
        model, processor, chats, [request.images for request in requests], plan.spec.max_new_tokens
    ).responses
    for name, completion in zip(plan.names(1), at_once, strict=True):
        assert (responses[name]["text"], responses[name]["truncated"]) == (completion.text, completion.truncated)

    in_order = sorted(plan.names(1), key=lambda name: plan.prompts[name[0]][0] == "pq")
    assert set(responses) == set(in_order)
    assert list(responses) != in_order  # some were generated a second time, after the others
    assert read_header(tmp_path / "base.jsonl")["rows"] == plan.rows


def test_a_limit_of_one_token_is_kept(make_plan, tmp_path):
    responses = write(make_plan(3, max_new_tokens=1), tmp_path / "base.jsonl", batch_size=2)
    assert [line["truncated"] for line in responses.values()] == [True] * 3


def test_an_adapter_is_at_work_on_the_weights(make_plan, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from spatial_edit_reward.inference.model import load_model

    plan = make_plan(2, max_new_tokens=4)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_alpha=64)
    get_peft_model(load_model(str(BASE), "auto", None), config).save_pretrained(tmp_path / "adapter")
    with_adapter = write(plan, tmp_path / "grpo.jsonl", adapter=tmp_path / "adapter")
    without = write(plan, tmp_path / "base.jsonl")
    assert all(with_adapter[name]["text"] != without[name]["text"] for name in plan.names(1))
    with pytest.raises(UserError, match="holds responses to something else"):
        write(plan, tmp_path / "grpo.jsonl")


def test_another_backend_is_asked_and_a_row_without_a_response_is_an_error(
    make_plan, endpoint, monkeypatch, tmp_path, caplog
):
    from evaluation.report import read_completions

    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    plan = make_plan(4)
    endpoint.answer = lambda number, body: chat("no") if len(endpoint.received) == 4 else (400, {}, b"{}")
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(UserError, match=r"3 of 4 rows without a response, .*: no response"),
    ):
        write(plan, tmp_path / "m.jsonl", backend="openai")
    endpoint.answer = lambda number, body: chat("two\u2028lines \u0085")
    responses = write(plan, tmp_path / "m.jsonl", backend="openai")
    assert sorted(line["text"] for line in responses.values()) == ["no", *["two\u2028lines \u0085"] * 3]
    assert endpoint.received[0]["model"] == str(BASE) and len(endpoint.received) == 7
    completions, truncated = read_completions(tmp_path / "m.jsonl", plan.rows)
    assert completions.count("two\u2028lines \u0085") == 3 and not any(truncated)
