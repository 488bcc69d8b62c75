from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from medxlate.base.errors import ConfigError
from medxlate.config import PRESETS, Config, ConfigSection, keys, parse, resolve


def write(path, text):
    path.write_text(text)
    return path


def weights_of_the_predictors_loss(config: Config) -> tuple[float, str, float | str]:
    objective = config.objective
    return objective.lambda_predict, objective.predict_unit, objective.fake_weight


def test_the_defaults_are_the_papers_but_for_the_predictors_loss():
    config = resolve()
    assert weights_of_the_predictors_loss(config) == (0.025, "standardised", 1.0)
    assert config.method == "joint"
    assert (config.split.train, config.split.val, config.split.test) == (0.7, 0.1, 0.2)
    assert config.objective.lambda_cycle == 10
    assert config.optimizer.epochs == 200
    assert config.optimizer.batch_size == 1
    assert config.optimizer.translator_lr == 0.0002
    assert config.optimizer.predictor_lr == 0.001
    assert config.model.predictor == "resnet50"


def test_the_preset_paper_weighs_years_squared_and_sums_over_all_images():
    config = resolve(preset="paper")
    assert weights_of_the_predictors_loss(config) == (0.001, "label", "count")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["objective.one_sided=true"], "set objective.lambda_cycle=0"),
        (["optimizer.warmup=0.6", "optimizer.finetune_share=0.4"], "never reach the predictor"),
        (["optimizer.warmup=0.6", "optimizer.translator_share=0.5"], "must be at least warmup"),
        (["optimizer.autoencode=0.5", "optimizer.translator_share=0.5"], "never to translate"),
        (["optimizer.autoencode=0.2", "optimizer.warmup=0.1"], "must not exceed warmup"),
        (["objective.ema_fakes=true"], "set optimizer.ema_decay"),
        (["model.generator_width=2"], "generator_width"),
        (["objective.fake_weight=-1"], "fake_weight"),
        (["objective.diffaugment=['blur']"], "diffaugment"),
        (["model.skip='residual'"], "skip"),
    ],
)
def test_what_contradicts_itself_is_refused(sets, said):
    with pytest.raises(ConfigError, match=said):
        resolve(sets=sets)


def test_what_comes_later_wins_preset_file_set_override(tmp_path):
    file = write(
        tmp_path / "c.toml",
        "[optimizer]\nepochs = 11\nbatch_size = 12\nbuffer_size = 13\n",
    )
    small = PRESETS["small"]
    assert resolve(preset="small").optimizer.epochs == small["optimizer"]["epochs"] != 11
    config = resolve(
        preset="small",
        file=file,
        sets=["optimizer.batch_size=21", "optimizer.buffer_size=22", "optimizer.buffer_size=23"],
        overrides={"optimizer": {"buffer_size": 31}},
    )
    assert config.model.generator_width == small["model"]["generator_width"]
    assert config.optimizer.epochs == 11
    assert config.optimizer.batch_size == 21
    assert config.optimizer.buffer_size == 31
    assert config.optimizer.constant_share == 0.5


def test_a_preset_is_not_changed_by_what_is_laid_over_it():
    before = json.dumps(PRESETS["debug"])
    resolve(preset="debug", sets=["model.generator_width=4", "model.generator_blocks=9"])
    assert json.dumps(PRESETS["debug"]) == before


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_valid(preset):
    assert resolve(preset=preset) != resolve()


def test_sets_take_toml_values_and_bare_words():
    config = resolve(
        sets=[
            'data.sources=["mri", "pet"]',
            "data.target = ct",
            "runtime.device=cuda:1",
            "optimizer.translator_betas=[0.4, 0.9]",
            "objective.lambda_cycle=5",
            'data.folder="a = b"',
        ]
    )
    assert config.data.sources == ("mri", "pet")
    assert config.data.target == "ct"
    assert config.data.folder == "a = b"
    assert config.runtime.device == "cuda:1"
    assert config.optimizer.translator_betas == (0.4, 0.9)
    assert config.objective.lambda_cycle == 5


def test_config_json_of_a_run_gives_the_same_configuration_back(tmp_path):
    config = resolve(
        preset="debug",
        sets=['data.sources=["mri"]', "data.target=ct", "optimizer.predictor_lr=3.3e-5"],
    )
    file = write(tmp_path / "config.json", config.model_dump_json())
    assert resolve(file=file) == config
    assert resolve(file=file, sets=["runtime.seed=5"]).runtime.seed == 5


def test_toml_gives_the_same_configuration_as_sets(tmp_path):
    file = write(
        tmp_path / "c.toml",
        'method = "target-only"\n[data]\nsources = ["mri"]\ntarget = "ct"\n[split]\nseed = 4\n',
    )
    sets = ["method=target-only", 'data.sources=["mri"]', "data.target=ct", "split.seed=4"]
    assert resolve(file=file) == resolve(sets=sets) != resolve()


@pytest.mark.parametrize(
    ("assignment", "suggestion"),
    [
        ("optimizer.epoch=3", "optimizer.epochs"),
        ("optimiser.epochs=3", "optimizer"),
        ("lambda_cycle=3", "objective.lambda_cycle"),
        ("optimizer.lambda_cycle=3", "objective.lambda_cycle"),
        ("metod=joint", "method"),
    ],
)
def test_an_unknown_key_names_the_nearest(assignment, suggestion):
    key = assignment.partition("=")[0]
    with pytest.raises(ConfigError, match="Did you mean") as caught:
        resolve(sets=[assignment])
    assert f"'{key.partition('.')[0]}" in caught.value.message
    assert suggestion in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("assignment", "key", "reason"),
    [
        ("optimizer.epochs=many", "optimizer.epochs", "valid integer"),
        ("optimizer.epochs=1.5", "optimizer.epochs", "valid integer"),
        ("optimizer.epochs=0", "optimizer.epochs", "greater than or equal to 1"),
        ("objective.lambda_cycle=-1", "objective.lambda_cycle", "greater than or equal to 0"),
        ("objective.lambda_cycle=nan", "objective.lambda_cycle", "finite|greater"),
        ("objective.lambda_cycle=inf", "objective.lambda_cycle", "finite"),
        ("optimizer.translator_lr=0", "optimizer.translator_lr", "greater than 0"),
        ("optimizer.predictor_betas=[0.9, 1]", "optimizer.predictor_betas", r"\[0, 1\)"),
        ("data.sources=mri", "data.sources", "valid tuple"),
        ("data.image_size=28", "data.image_size", "greater than or equal to 32"),
        ("data.image_size=33", "data.image_size", "multiple of 4"),
        ("runtime.precision=fp8", "runtime.precision", "'auto', 'fp32' or 'bf16'"),
        ("split.train=0.8", "split", "add up to 1"),
        ('data.sources=["a", "a"]', "data", "twice"),
        ('data={sources=["a"], target="a"}', "data", "both source and target"),
        ("optimizer=3", "optimizer", "OptimizerConfig"),
    ],
)
def test_a_wrong_value_names_its_key_and_the_reason(assignment, key, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        resolve(sets=[assignment])
    assert f"'{key}'" in caught.value.message
    assert ("given:" in caught.value.message) == (key not in ("split", "data"))  # whole sections


@pytest.mark.parametrize("text", ["optimizer.epochs", "=3", ""])
def test_a_set_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="is not of the form"):
        resolve(sets=[text])


def test_a_key_given_as_value_and_as_section_is_refused():
    with pytest.raises(ConfigError, match="'optimizer' is given both"):
        resolve(sets=["optimizer=3", "optimizer.epochs=3"])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown preset 'smal'.*'small'"):
        resolve(preset="smal")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.toml", "[optimizer\n", "is not valid TOML"),
        ("c.json", "{", "cannot be read as JSON"),
        ("c.json", "[1]", "is not a JSON object"),
        ("c.toml", None, "does not exist"),
        ("c.toml", "[optimizer]\nepoch = 3\n", "'optimizer.epoch'"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, reason):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        resolve(file=file)
    assert name in caught.value.message or "optimizer.epoch" in caught.value.message


def test_the_configuration_cannot_be_changed():
    config = resolve()
    with pytest.raises(ValidationError, match="frozen"):
        config.method = "other"
    with pytest.raises(ValidationError, match="frozen"):
        config.optimizer.epochs = 3


def test_keys_lists_every_key_of_the_resolved_configuration():
    config = Config()
    sections = {name: getattr(config, name) for name in Config.model_fields}
    expected = {
        f"{name}.{key}" if isinstance(section, ConfigSection) else name
        for name, section in sections.items()
        for key in (section.model_dump() if isinstance(section, ConfigSection) else [""])
    }
    assert set(keys()) == expected
    assert len(keys()) == len(expected)


def test_every_key_has_a_description():
    for name, own in Config.model_fields.items():
        section = getattr(Config(), name)
        is_section = isinstance(section, ConfigSection)
        fields = type(section).model_fields if is_section else {name: own}
        assert [key for key, field in fields.items() if not field.description] == []


def test_parse_fills_in_the_defaults():
    assert parse({}) == Config()
    assert parse({"runtime": {"seed": 7}}).runtime.seed == 7
