"""What the parent of `support.warm` imports: all that a run of train.py does, and nothing that starts a thread."""

import gc

import datasets  # noqa: F401
import evaluate  # noqa: F401
import pandas  # noqa: F401
import sklearn.metrics  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.roberta.modeling_roberta  # noqa: F401

import experiments.inputs  # noqa: F401
import methods  # noqa: F401
import tasks.generated
import tasks.metrics  # noqa: F401
import train  # noqa: F401
import training.trainer  # noqa: F401

gc.freeze()  # a run collects garbage at its start; the libraries' objects are never garbage
