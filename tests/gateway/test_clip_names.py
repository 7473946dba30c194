"""Which model names the served model answers to."""

import logging

import pytest

from gateway.clip_names import IMMICH, ClipNames
from gateway.errors import Unprocessable
from indexer.models.clip import MODELS
from indexer.models.types import ClipInfo

B16 = MODELS["ViT-B-16"]

# immich.md: the names that Immich takes for cn-clip's models.
ACCEPTED_BY_IMMICH = {
    "ViT-B-16": "cn-clip/ViT-B-16__openai",
    "ViT-L-14": "cn-clip/ViT-L-14__openai",
    "ViT-L-14-336": "cn-clip/ViT-L-14-336__openai",
    "ViT-H-14": "cn-clip/ViT-H-14__laion2b-s32b-b79k",
    "RN50": "cn-clip/RN50__openai",
}


@pytest.mark.parametrize("served", MODELS.values(), ids=MODELS)
def test_cn_clip_names_choose_exactly_their_model(
    served: ClipInfo, caplog: pytest.LogCaptureFixture
) -> None:
    names = ClipNames()
    for architecture, name in ACCEPTED_BY_IMMICH.items():
        assert IMMICH[name.removeprefix("cn-clip/")] == MODELS[architecture].dim
        if architecture == served.name:
            names.check(name, served)
            continue
        with pytest.raises(Unprocessable) as refused:
            names.check(name, served)
        assert f"set the CLIP model in Immich to {ACCEPTED_BY_IMMICH[served.name]}" in str(
            refused.value
        )
        assert f"set CLIP_MODEL={architecture}." in str(refused.value)
    assert not caplog.records


@pytest.mark.parametrize("served", MODELS.values(), ids=MODELS)
def test_immich_names_pass_where_the_length_is_equal(served: ClipInfo) -> None:
    names = ClipNames()
    for name, dim in IMMICH.items():
        if dim == served.dim:
            names.check(name, served)
        else:
            with pytest.raises(Unprocessable, match=rf"vectors of {dim} numbers.*{served.dim}"):
                names.check(name, served)


def test_a_stand_in_for_immichs_default_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    names = ClipNames()
    for _ in range(3):
        names.check("ViT-B-32__openai", B16)
    assert len(caplog.records) == 1
    assert "asked=ViT-B-32__openai served=ViT-B-16" in caplog.text
    assert "cn-clip/ViT-B-16__openai" in caplog.text
    names.check("RN101__openai", B16)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "name",
    ["ViT-B-16", "ViT-B-16__anything", "CN-CLIP/ViT-B-16", "a/cn-clip/ViT-B-16__x", "x/ViT-B-16"],
)
def test_other_ways_to_write_the_served_name(name: str) -> None:
    ClipNames().check(name, B16)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "cn-clip/",
        "cn-clip/ViT-B-32__openai",
        "ViT-B-32__OPENAI",
        "ViT-B-16-plus",
        "cn-clip",
    ],
)
def test_names_that_mean_nothing_here(name: str) -> None:
    with pytest.raises(Unprocessable, match="isn't served here"):
        ClipNames().check(name, B16)


def test_the_stand_in_takes_no_public_models_place() -> None:
    stand_in = ClipInfo("stand-in", 512, 64)
    names = ClipNames()
    names.check("cn-clip/stand-in", stand_in)
    with pytest.raises(Unprocessable, match="this server has stand-in"):
        names.check("cn-clip/ViT-B-16__openai", stand_in)
