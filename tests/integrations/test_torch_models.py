"""Models of a public library, untouched, with fastdrop under PyTorch's operators."""

import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")
transformers = pytest.importorskip("transformers", reason="transformers is of the extra test")

import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch import _keys  # noqa: E402

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
MODELS = {
    "BERT": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=64, **SMALL)),
    "GPT-2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    ),
    "ConvBERT, with convolutions": lambda: transformers.ConvBertForMaskedLM(
        transformers.ConvBertConfig(vocab_size=64, embedding_size=64, **SMALL)
    ),
}
TOKENS = torch.randint(1, 64, (8, 24), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def built(name):
    torch.manual_seed(0)
    return MODELS[name]()


def losses(model, steps=50):
    """The losses of some steps of training on one batch."""
    torch.manual_seed(1)
    optimizer, found = torch.optim.AdamW(model.train().parameters(), 2e-3), []
    for _ in range(steps):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_losses_fall_as_with_torchs_dropout(name):
    theirs = losses(built(name))
    with fdt.install():
        ours = losses(built(name))
    assert not torch.equal(ours, theirs)  # other masks
    assert ours[-10:].mean() < 0.8 * ours[:3].mean()
    assert (ours[-10:].mean() - theirs[-10:].mean()).abs() < 0.1 * theirs[:3].mean()


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_bit_for_bit_that_of_torch(name):
    model = built(name).eval()
    with torch.no_grad():
        expected = model(input_ids=TOKENS).logits
        with fdt.install():
            assert torch.equal(model(input_ids=TOKENS).logits, expected)


@pytest.mark.parametrize("name", MODELS)
def test_every_dropout_of_a_step_is_ours(name, monkeypatch):
    model, draws, random_draw = built(name).train(), [], _keys.random_draw

    def draw():
        draws.append(1)
        return random_draw()

    monkeypatch.setattr(_keys, "random_draw", draw)
    with fdt.install(), torch.profiler.profile() as profile:
        model(input_ids=TOKENS, labels=TOKENS)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert len(draws) == counts["aten::dropout"] >= 7
    assert "aten::bernoulli_" not in counts


def test_a_model_with_keys_is_saved_and_resumed_bit_for_bit(tmp_path):
    """By `save_pretrained`, as transformers' Trainer does; a class that swaps its dropout takes the keys."""

    class Keyed(transformers.BertForMaskedLM):
        def __init__(self, config):
            super().__init__(config)
            fdt.replace_dropout(self, rng=42)

    model = Keyed(transformers.BertConfig(vocab_size=64, attention_probs_dropout_prob=0.0, **SMALL)).train()
    model(input_ids=TOKENS)
    model.save_pretrained(tmp_path)
    resumed = Keyed.from_pretrained(tmp_path, dtype=torch.float32).train()
    assert resumed.bert.embeddings.dropout.key == model.bert.embeddings.dropout.key
    assert resumed.bert.embeddings.dropout.key.draw == 1
    assert torch.equal(resumed(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)
    half = Keyed.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.bert.embeddings.dropout.key.draw == 1
