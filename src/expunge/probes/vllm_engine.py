"""Generation with vLLM, an alternative to torch for large models on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.errors import MissingExtraError


class VllmEngine:
    """A model that vLLM loads on the first call of `generate`.

    vLLM's kernels round differently from torch's, so greedy answers can diverge where two tokens are almost equally
    likely, and the same seed samples other tokens. Its generations are therefore cached separately from torch's.

    Args:
        name: Folder or hub id with the weights of the measured model.
        dtype: Precision; vLLM uses the names of torch.
        context: Context length in tokens.

    Raises:
        MissingExtraError: vLLM is not installed.
    """

    def __init__(self, name: str, dtype: str, context: int) -> None:
        try:
            import vllm
        except ImportError as error:
            raise MissingExtraError("vllm", "vllm", "evaluate.engine: vllm") from error
        self._vllm, self._context = vllm, context
        self._settings = {"model": name, "dtype": dtype, "max_model_len": context, "skip_tokenizer_init": True}
        self._model: Any = None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: Sequence[int],
        eos_ids: Sequence[int],
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
    ) -> list[list[int] | None]:
        """Generate a continuation of each prompt, in the format of `probes.generation.generate`.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Maximum number of new tokens, per prompt.
            eos_ids: Tokens that end an answer; they are removed from it.
            temperature: 0 for greedy decoding.
            seeds: One per prompt if the temperature is above 0.
        """
        if self._model is None:
            self._model = self._vllm.LLM(**self._settings)
        indices = [i for i, prompt in enumerate(prompts) if len(prompt) < self._context]
        sampling = [
            self._vllm.SamplingParams(
                temperature=temperature,
                max_tokens=min(max_new_tokens[i], self._context - len(prompts[i])),
                stop_token_ids=list(eos_ids),
                seed=seeds[i] if temperature else None,
                detokenize=False,
            )
            for i in indices
        ]
        inputs = [{"prompt_token_ids": list(prompts[i])} for i in indices]
        results: list[list[int] | None] = [None] * len(prompts)
        for i, output in zip(indices, self._model.generate(inputs, sampling, use_tqdm=False), strict=True):
            ids = list(output.outputs[0].token_ids)
            results[i] = ids[:-1] if ids and ids[-1] in set(eos_ids) else ids
        return results
