"""Small encoders of many architectures, with random weights and a tokenizer: what users bring besides RoBERTa."""

import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from models.random_init import train_tokenizer

TEXTS = [("the cat sat on the mat",), ("a dog ran to the house",)]
SPECIAL = {"vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "num_labels": 3}
BERT = SPECIAL | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ROBERTA = BERT | {"max_position_embeddings": 66}
NARROW = BERT | {"embedding_size": 16}
DEBERTA = BERT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
XLM = SPECIAL | {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "pad_index": 1, "max_position_embeddings": 64}
SEQ2SEQ = SPECIAL | {"d_model": 32, "decoder_start_token_id": 2}
BART_LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": SPECIAL | {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64},
    "electra": NARROW,
    "albert": NARROW,
    "mpnet": ROBERTA,
    "deberta": DEBERTA | {"type_vocab_size": 0},
    "deberta-v2": DEBERTA | {"type_vocab_size": 0, "position_buckets": 16, "norm_rel_ebd": "layer_norm"},
    "modernbert": BERT | {"cls_token_id": 0, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 8},
    "funnel": SPECIAL | {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "block_sizes": [1, 1]},
    "ibert": ROBERTA,
    "mobilebert": NARROW | {"hidden_size": 64, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "big_bird": BERT | {"attention_type": "original_full"},
    "longformer": ROBERTA | {"attention_window": [8, 8]},
    "xlm": XLM,
    "flaubert": XLM,
    "bart": SEQ2SEQ | BART_LAYERS | BART_HEADS,
    "gpt2": SPECIAL | {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": BERT | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "t5": SEQ2SEQ | {"d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
    "luke": ROBERTA | {"entity_vocab_size": 10, "entity_emb_size": 16},
    "roformer": BERT | {"embedding_size": 32},
    "xlnet": SPECIAL | {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
    "fnet": BERT | {"tpu_short_seq_length": 64},
    "squeezebert": BERT | {"embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2},
    "xmod": ROBERTA | {"languages": ["en_XX"], "default_language": "en_XX"},
    "llama": BERT | {"num_key_value_heads": 2},
}


def random_classifier(architecture: str, **settings: Any) -> Any:
    """A classifier whose weights are far enough from each other that a mistake shows; a tensor is drawn by its name."""
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | settings)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # MobileBERT reads the place behind a text
    return model


def save_base(folder: Path, architecture: str, pad_id: int = 1, with_head: bool = False, **settings: Any) -> Any:
    """A checkpoint as people bring one, with its tokenizer; returns the classifier that it comes from."""
    model = random_classifier(architecture, **settings)
    (model if with_head else model.base_model).save_pretrained(folder)
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, pad_id=pad_id)
    if architecture == "fnet":
        tokenizer.model_input_names = ["input_ids"]
    tokenizer.save_pretrained(folder)
    return model
