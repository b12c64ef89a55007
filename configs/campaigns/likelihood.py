"""The function of python-function.yml: how likely the model holds the right answer to be."""

from __future__ import annotations

from typing import Any


def of_the_answer(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Per row: `score` is the mean log-probability of the answer's tokens, `worst` the lowest of them."""
    import torch

    results = []
    for row in rows:
        question = tokenizer.encode(f"{row['question']}=", add_special_tokens=False)
        answer = tokenizer.encode(row["answer"], add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([question + answer], device=model.device)).logits[0]
        places = logits[len(question) - 1 : -1].float().log_softmax(-1)
        logs = places.gather(1, torch.tensor(answer, device=model.device)[:, None])[:, 0]
        results.append({"score": float(logs.mean()), "worst": float(logs.min())})
    return results
