"""Parameter counts checked by hand, and standard errors checked against simulation."""

import numpy as np
import pytest
from support.tiny import METHODS, tiny_model

from analysis.arithmetic import (
    accuracy_error,
    checkpoint,
    dev_set_error,
    llama_parameters,
    lora_parameters,
    matthews,
    matthews_error,
    moments,
    moments_grow,
    pearson_error,
)
from methods.base import parameter_counts


def test_the_papers_sizes_follow_from_their_settings():
    assert checkpoint() == [("GPT-3", True, "350 GB over 37.75 MB is 9,272")]
    assert moments() == [("Llama 7B", True, "4,194,304 numbers x 2 x 2 bytes = 16.78 MB")]
    assert moments_grow()[0][2].endswith("r = 256: 536.9 MB")
    assert llama_parameters()[0][1] is True


def test_loras_formula_counts_the_parameters_of_a_real_model():
    model = tiny_model("roberta")
    METHODS["lora"].apply(model)
    config = model.config
    expected = lora_parameters(config.num_hidden_layers, 2, config.hidden_size, METHODS["lora"].rank)
    assert parameter_counts(model, {})["trained_without_head"] == expected


@pytest.mark.parametrize(("r", "share"), [(0.0, 0.5), (0.3, 0.69), (0.7, 0.4)])
def test_matthews_standard_error_matches_simulated_validation_sets(r, share):
    both = share**2 + r * share * (1 - share)
    cells = [both, share - both, share - both, 1 - 2 * share + both]
    assert matthews(*cells) == pytest.approx(r)
    draws = np.random.default_rng(0).multinomial(1000, cells, size=20_000)
    assert matthews_error(r, share, 1000) == pytest.approx(np.std([matthews(*map(float, d)) for d in draws]), rel=0.03)


def test_the_other_standard_errors_have_closed_forms():
    assert accuracy_error(0.5, 100) == 0.05
    assert pearson_error(0.0, 100) == 0.1
    x, y = (
        np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=(4000, 400)).transpose(2, 0, 1)
    )
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    assert pearson_error(0.8, 400) == pytest.approx(np.std(found), rel=0.05)
    assert dev_set_error("rte") == pytest.approx(3.00, abs=0.01)
