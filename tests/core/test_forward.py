import pytest
import torch

from mmlib.forward import batches, observe, on_device
from mmlib.importance import collect_norms
from mmlib.models import linear_modules


def hooks_left(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_every_module_is_seen_with_its_own_input_and_output(llama):
    modules = linear_modules(llama)
    inputs, outputs = {}, {}
    ids = torch.arange(1, 9)[None]
    with (
        torch.no_grad(),
        observe(modules, inputs.__setitem__),
        observe(modules, outputs.__setitem__, what="output"),
    ):
        llama(ids)
    assert list(inputs) == list(modules)
    for name, module in modules.items():
        torch.testing.assert_close(outputs[name], inputs[name] @ module.weight.T)


def test_hooks_are_gone_after_the_block_and_after_an_exception(llama):
    with observe(linear_modules(llama), lambda *_: None):
        assert hooks_left(llama) > 0
    assert hooks_left(llama) == 0

    def refuse(name, _tensor):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError), observe(linear_modules(llama), refuse):
        llama(torch.tensor([[1]]))
    assert hooks_left(llama) == 0


def test_unknown_side_is_refused(llama):
    with pytest.raises(ValueError, match="'input' or 'output'"), observe({}, print, what="grad"):
        pass


def test_a_token_without_an_embedding_is_named(llama):
    ids = torch.tensor([[1, 97]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for read in (lambda: on_device(batch, llama), lambda: collect_norms(llama, [batch])):
        with pytest.raises(ValueError, match="token id 97 is beyond the model's 97 embeddings"):
            read()


def test_an_empty_text_beside_others_is_named():
    def tokenizer(texts, **_):
        return {"input_ids": [list(text.encode()) for text in texts]}

    def beginning(texts, **_):
        return {"input_ids": [[1, *text.encode()] for text in texts]}

    for tokenize in (tokenizer, beginning):
        with pytest.raises(ValueError, match=r"text 1 has no tokens .*: drop it"):
            batches(tokenize, ["one", "", "three"])
