"""Configurations: the shipped ones load, errors name place, value and remedy, and a dumped one parses to itself."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mechanism.errors import ConfigError
from mechanism.objective import Penalty
from trainers.config import (
    FeedbackConfig,
    OptimisationConfig,
    RetrainConfig,
    RunConfig,
    dump_config,
    load_config,
    load_retraining,
    parse_config,
    parse_retraining,
)

CONFIGS = resources.files("trainers") / "configs"
SHIPPED = sorted(p.name.removesuffix(".yaml") for p in CONFIGS.iterdir() if p.name.endswith(".yaml"))
RETRAINING = sorted(p.name.removesuffix(".yaml") for p in (CONFIGS / "retraining").iterdir())


def refused(text: str, *settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "run.yaml", settings)
    return str(caught.value)


def test_there_is_a_quick_configuration() -> None:
    assert "quick" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_loads(name: str) -> None:
    config = load_config(name)
    assert config.name
    assert Penalty(**config.penalty.model_dump()).per_ad >= 0


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dumped_configuration_parses_to_itself(name: str) -> None:
    config = load_config(name)
    text = dump_config(config)
    assert parse_config(text, "again") == config
    assert dump_config(parse_config(text, "again")) == text


@pytest.mark.parametrize("name", RETRAINING)
def test_every_shipped_retraining_parses_to_itself_and_makes_a_run(name: str) -> None:
    config = load_retraining(name)
    assert parse_retraining(dump_config(config), "again") == config
    run = config.run("models/v1", "lake", 3, None, None)
    assert (run.epochs, run.base, run.feedback.source, run.feedback.path) == (1, "models/v1", "lake", "lake")
    assert run.feedback.held_out == config.log.held_out
    assert RunConfig.model_validate(run.model_dump()) == run


def test_records_of_earlier_releases_name_the_lake_shards() -> None:
    from trainers.retraining.attempts import Begun

    assert FeedbackConfig.model_validate({"source": "shards", "path": "old"}).source == "lake"
    now = datetime.now(UTC)
    values = {"serving": "v1", "begun_at": now, "log_since": None, "log_until": now, "newest_since": None}
    values |= {"reason": "a test", "config": load_retraining(RETRAINING[0])}
    earlier = Begun.model_validate(values | {"shards": "s3://bucket/shards"})
    assert earlier == Begun.model_validate(values | {"lake": "s3://bucket/shards"})
    assert "shards" not in earlier.model_dump()


def test_a_retraining_keeps_something_for_its_gates() -> None:
    for share in (0, 1):
        with pytest.raises(ValidationError, match="held_out"):
            RetrainConfig.model_validate({"log": {"held_out": share}})
    with pytest.raises(ConfigError, match=r"policy.yaml: triggers.hours"):
        parse_retraining("triggers: {hours: 3}", "policy.yaml")


def test_an_estimate_that_would_miss_the_number_of_ads_is_refused() -> None:
    for method in ("snips", "ips"):
        text = f"gates: {{offpolicy: {{action: ads, method: {method}}}}}"
        with pytest.raises(ConfigError, match=r"offpolicy\.action ads needs offpolicy\.method dr"):
            parse_retraining(text, "policy.yaml")
    assert parse_retraining("gates: {offpolicy: {action: ads}}", "policy.yaml").gates.offpolicy.method == "dr"


def test_bids_of_a_simulated_world_are_always_drawn() -> None:
    with pytest.raises(ConfigError, match="a simulated world has no advertisers"):
        parse_config("{name: x, rollout: {bids: as_bid}}", "run.yaml")


def test_a_file_loads_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nepochs: 2\n")
    assert load_config(str(file)) == RunConfig(name="mine", epochs=2)
    with pytest.raises(ConfigError, match=r"other\.yaml': the file does not exist"):
        load_config(str(tmp_path / "other.yaml"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"configuration: 'quik': give a \.yaml file or one of .*quick"):
        load_config("quik")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nepoch: 3", "run.yaml: epoch: 3: Extra inputs are not permitted"),
        ("name: x\nreward: {soruce: oracle}", "run.yaml: reward.soruce: 'oracle': Extra inputs are not permitted"),
        ("name: x\nepochs: 0", "run.yaml: epochs: 0: Input should be greater than 0"),
        ("name: x\noptimisation: {precision: float64}", "run.yaml: optimisation.precision: 'float64': Input should be"),
        ("name: x\noptimisation: {batch: 6, processes: 4}", "must be a multiple of optimisation.processes"),
        ("name: x\noptimisation: {shared_prefix: false, sft_weight: 0.1}", "needs optimisation.shared_prefix"),
        ("name: x\noptimisation: {lora_rank: 4}\nwarm_start: {}", "without warm_start"),
        ("name: x\noptimisation: {objective: rloo, sft_weight: 0.1}", "belongs to the objective preference"),
        ("name: x\noptimisation: {shared_prefix: false, loss: margin}", "needs the objective preference with the loss"),
        (
            "name: x\noptimisation: {objective: rloo}\npreference: {counterfactual_bids: 1}",
            "importance ratios hold for answers that the policy wrote",
        ),
        ("name: x\npreference: {swaps: 2}", "preference.edited needs preference.swaps or preference.removals"),
        ("name: x\npreference: {edited: 1}", "preference.edited needs preference.swaps or preference.removals"),
        ("name: x\nworld: {kind: webis}", "world.path belongs to the kinds of imported data"),
        ("name: x\nworld: {path: there}", "world.path belongs to the kinds of imported data"),
        ("name: x\nwarm_start: {source: native}", "warm_start.source native needs a world of kind naiad or native-ads"),
        ("name: Not Allowed", "run.yaml: name: 'Not Allowed': String should match pattern"),
        ("epochs: 2", "run.yaml: name: "),
        ("name: x\nrollout: {top_p: 1.5}", "run.yaml: rollout.top_p: 1.5: Input should be less than or equal to 1"),
        ("name: x\nepochs: 0\nseed: none", "(and 1 more)"),
        ("name: x\npenalty: {per_ad: .inf}", "run.yaml: penalty.per_ad: inf: Input should be a finite number"),
        ("- a\n- b", "run.yaml: ['a', 'b']: a configuration is a mapping of sections"),
        ("name: [", "this is not YAML"),
    ],
)
def test_errors_name_file_field_value_and_remedy(text: str, expected: str) -> None:
    assert expected in refused(text)


def test_settings_override_fields_and_make_sections() -> None:
    settings = [
        "epochs=7",
        "optimisation.learning_rate=1e-5",
        "optimisation.zero_stage=2",
        "world.kind=webis",
        "world.path=data/webis",
        "reward.hidden=[64, 32]",
        "warm_start.steps=5",
        "optimisation.shared_prefix=false",
    ]
    config = parse_config("name: x\nepochs: 2\noptimisation: {batch: 8}\n", "run.yaml", settings)
    assert config.epochs == 7
    assert config.optimisation.learning_rate == 1e-5
    assert config.optimisation.batch == 8
    assert config.optimisation.zero_stage == 2
    assert not config.optimisation.shared_prefix
    assert config.world.path == "data/webis"
    assert config.reward.hidden == (64, 32)
    assert config.warm_start is not None
    assert config.warm_start.steps == 5


def test_later_settings_win_and_null_takes_a_section_away() -> None:
    config = parse_config("name: x", "run.yaml", ["epochs=2", "epochs=3", "warm_start.steps=5", "warm_start=null"])
    assert config.epochs == 3
    assert config.warm_start is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("epochs", "--set: 'epochs': write key.path=value"),
        ("=3", "--set: '=3': write key.path=value"),
        ("epochs.deep=3", "--set: 'epochs.deep=3': epochs is a value and has no fields"),
        ("epochs=many", "run.yaml: epochs: 'many': Input should be a valid integer"),
        ("optimisation.learning_rat=1", "run.yaml: optimisation.learning_rat: "),
        ("reward.hidden=[64", "--set: 'reward.hidden=[64': the value is not YAML"),
        ("name=1e5", "run.yaml: name: "),
    ],
)
def test_bad_settings_are_refused(setting: str, expected: str) -> None:
    assert expected in refused("name: x\nepochs: 2", setting)


def test_text_that_looks_like_no_number_stays_text() -> None:
    for name in ("nano", "infra", "run-1", "1e"):
        assert parse_config("name: x", "run.yaml", [f"name={name}"]).name == name
    # these read as numbers to Python, but people mean a name
    for name in ("nan", "inf", "infinity"):
        assert parse_config("name: x", "run.yaml", [f"base={name}"]).base == name


@given(st.integers(1, 8), st.integers(1, 16), st.integers(1, 40))
def test_a_batch_that_the_processes_share_evenly_is_accepted(processes: int, share: int, per_process: int) -> None:
    config = OptimisationConfig(batch=processes * share, processes=processes, batch_per_process=per_process)
    assert config.batch // config.processes == share


def test_the_learning_rate_falls_from_epoch_to_epoch() -> None:
    config = OptimisationConfig(learning_rate=4e-4, epoch_decay=0.5, beta=0.2)
    assert [config.at_epoch(e).learning_rate for e in (1, 2, 4)] == [4e-4, 2e-4, 5e-5]
    assert config.at_epoch(3).beta == 0.2
    assert OptimisationConfig(learning_rate=1e-6).at_epoch(9).learning_rate == 1e-6
    with pytest.raises(ValidationError, match="epoch_decay"):
        OptimisationConfig(epoch_decay=1.5)
