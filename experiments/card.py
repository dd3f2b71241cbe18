"""The model card of an exported run: its numbers, where they come from, and the lines that load it."""

from huggingface_hub import EvalResult, ModelCardData

from experiments.restore import Restored
from methods.base import head_modules
from methods.qlora import QLoRA
from tasks.glue import GLUE


def card(restored: Restored, library: str, place: str) -> str:
    """A model card with the record's numbers and the lines that load the model, in Markdown under the hub's YAML.

    Args:
        library: transformers, for a merged model, or peft, for an adapter.
        place: the folder, or the name on the hub, that the lines load.
    """
    run, record = restored.run, restored.record
    name, best = f"{run.backbone.name}-{run.task.name}-{run.method.name}", record["best"]
    metrics = [metric for metric in run.task.row.metrics if metric in best]  # a record may be older than a metric
    source = run.data.repository if run.data.name == "hub" else f"{run.data.name} data"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=run.data.repository,
            dataset_name=f"GLUE {run.task.name}",
            dataset_config=run.task.name,
            dataset_split="validation",
            metric_type=metric,
            metric_value=best[metric],
        )
        for metric in metrics
        if run.data.name == "hub" and run.data.eval_size is None  # only such a score is GLUE's
    ]
    hub = run.backbone.source if run.backbone.revision else None
    header = ModelCardData(
        base_model=hub,
        library_name=library,
        license=run.backbone.license,
        language="en",
        model_name=name,
        tags=["glue"] if run.task.name in GLUE else None,
        eval_results=results or None,
    )
    trainer, provenance, trained = run.trainer, record["provenance"], record["parameters"]
    scores = ", ".join(f"{metric} {best[metric]:.4f}" for metric in metrics)
    settings = ", ".join(f"{k} {v}" for k, v in record["config"]["method"].items() if k != "name").replace("|", "\\|")
    usage = usage_of_adapter(restored, place) if library == "peft" else usage_of_merged(restored, place)
    size, kept = run.data.train_size, f"without the {100 * run.data.holdout:g} % held out" * (run.data.holdout > 0)
    drawn = ", ".join(filter(None, [f"{size:,}, a part of the training set" if size else "", kept]))
    part = f"\n| training examples | {drawn} |" if drawn else ""
    judged = f"{run.data.eval_size:,} examples of the validation set" if run.data.eval_size else "the validation set"
    changed = ", with changes that are not committed" if provenance["git"]["dirty"] else ""
    on_glue = run.task.name in GLUE and run.data.name != "generated"
    task = f"GLUE's {run.task.name}" if on_glue else run.task.name
    return f"""---
{header.to_yaml()}
---

# {name}

{run.backbone.name}, trained by {run.method.name} on {task} ({source}).

**{scores}** on {judged}, at the best of {len(record["history"])} evaluations there (epoch {best["epoch"]:g}).

| | |
|---|---|
| settings of the method | {settings or "none"} |
| learning rate, of the head | {trainer.learning_rate:g} / {trainer.head_learning_rate:g} |
| epochs trained, batch size, seed | {record["history"][-1]["epoch"]:g}, {trainer.batch_size}, {run.seed} |{part}
| parameters trained, without the head | {trained["trained"]:,} / {trained["trained_without_head"]:,} |
| weights of the backbone | {provenance["backbone"]["source"]}, sha256 {provenance["backbone"]["sha256"]} |
| data, a hash of | {provenance["data_fingerprint"]} |
| code's commit | {provenance["git"]["commit"]}{changed} |
| settings, a hash of | {record["config_hash"]} |

{usage}"""


def usage_of_merged(restored: Restored, place: str) -> str:
    """The lines that load a merged model and use it."""
    task = restored.run.task.row
    text = '{"text": "One.", "text_pair": "Another."}' if len(task.columns) > 1 else '"A sentence."'
    scores = ', function_to_apply="none"' if task.is_regression else ""  # else the pipeline squeezes a score
    return f"""```python
from transformers import pipeline

classify = pipeline("text-classification", model="{place}"{scores})
print(classify({text}))
```
"""


def usage_of_adapter(restored: Restored, place: str) -> str:
    """The lines that load the backbone and the adapter with peft, and use them."""
    run = restored.run
    if run.backbone.random_init:
        return "The backbone has random weights and is in no checkpoint: the adapter is of no use elsewhere.\n"
    imports, backbone, more = [], f'"{run.backbone.source}"', ""
    if run.backbone.revision:
        more = f', revision="{run.backbone.revision}"'
    elif (run.backbone.source or "").startswith("package:"):
        package = (run.backbone.source or "").removeprefix("package:")
        imports.append("from importlib.metadata import files\n")
        backbone = f'next(f for f in files("{package}") if f.match("model/config.json")).locate().parent'
    quantization = ""
    if isinstance(run.method, QLoRA):
        imports.append("import torch")
        quantization = f"""quantization = BitsAndBytesConfig(  # the head stays in floating point
    load_in_4bit=True,
    bnb_4bit_quant_type="{run.method.quant_type}",
    bnb_4bit_use_double_quant={run.method.double_quant},
    bnb_4bit_compute_dtype=torch.float32,
    llm_int8_skip_modules={head_modules(restored.model)},
)
"""
        more += ", quantization_config=quantization"
    names = "AutoModelForSequenceClassification, AutoTokenizer" + ", BitsAndBytesConfig" * bool(quantization)
    texts = '"One.", "Another."' if len(run.task.row.columns) > 1 else '"A sentence."'
    labels = f"id2label={dict(enumerate(run.task.row.labels))}" if run.task.row.labels else "num_labels=1"
    first_lines = "".join(f"{line}\n" for line in imports)
    return f"""```python
{first_lines}from peft import PeftModel
from transformers import {names}

backbone = {backbone}
{quantization}base = AutoModelForSequenceClassification.from_pretrained(backbone, {labels}{more})
model = PeftModel.from_pretrained(base, "{place}").eval()  # with its head, which the line above reports as missing
tokens = AutoTokenizer.from_pretrained("{place}")({texts}, return_tensors="pt")
print(model(**tokens).logits)
```
"""
