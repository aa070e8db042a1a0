"""The merged model behind `transformers serve`: two images and the spec's prompt, the same greedy verdict as in-process."""

import base64
import io

import pytest

from data.synthetic.generate import group_rows
from spatial_edit_reward.chat import prompt_messages
from spatial_edit_reward.images import fit
from tests.endpoint import served
from tests.export.conftest import SPEC

LIMIT = 64  # tokens
pytestmark = pytest.mark.slow


@pytest.fixture
def client(merged, tmp_path):
    import openai

    with served(merged, tmp_path / "log") as base_url:
        yield openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)


def as_url(image):
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_the_served_verdict_is_the_models(client, merged):
    from spatial_edit_reward.inference.generation import generate_batch
    from spatial_edit_reward.inference.model import load_model, load_processor

    model, processor = load_model(str(merged), None, None), load_processor(str(merged), SPEC)
    for row in group_rows(seed=3, number=0, image_size=64)[:2]:
        images = [fit(image, SPEC.pixels) for image in row["images"]]
        content = [{"type": "image_url", "image_url": {"url": as_url(image)}} for image in images]
        content.append({"type": "text", "text": SPEC.prompt(row["task"], row["instruction"])})
        answer = client.chat.completions.create(
            model=str(merged),
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=LIMIT,
        )
        messages = prompt_messages(row["task"], row["instruction"], SPEC)
        [expected] = generate_batch(model, processor, [messages], [images], LIMIT).responses
        assert answer.choices[0].message.content == expected.text != ""
