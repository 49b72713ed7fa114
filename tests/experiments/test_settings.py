import json

import polars as pl

from tf4ctr.experiments.settings import by_config, by_overrides, settings_of


def frame_of(runs, overrides, configs, dataset="toy"):
    columns = {"overrides": [json.dumps(row) for row in overrides], "config": [json.dumps(row) for row in configs]}
    return pl.DataFrame({"run": runs, "dataset": [dataset] * len(runs), **columns})


def test_overrides_name_what_differs_but_never_seeds_folders_and_loggers():
    texts = [
        {
            "dfm": "dfm=sum",
            "seed": "seed=1",
            "dataset.raw_dir": "dataset.raw_dir=a",
            "logger": "logger=csv",
            "x": "x=1",
        },
        {"dfm": "dfm=wsf", "seed": "seed=2", "dataset.raw_dir": "dataset.raw_dir=b", "~y": "~y", "x": "x=1"},
    ]
    names, values, labels = by_overrides(texts)
    assert names == ["dfm", "~y"]
    assert values == [{"dfm": "sum", "~y": None}, {"dfm": "wsf", "~y": "~y"}]
    assert labels == ["dfm=sum", "dfm=wsf ~y"]
    assert by_overrides([{}, {}]).labels == ["as composed"] * 2


def test_configs_name_only_keys_that_tell_runs_apart():
    configs = [
        {"backbone": "dnn", "backbone.width": "10", "loss.c": "0.7"},
        {"backbone": "dnn", "backbone.width": "10", "loss.c": "0.8"},
        {"backbone": "fm", "backbone.order": "2", "loss.c": "0.7"},
    ]
    names, _, labels = by_config(configs)
    assert names == ["backbone", "loss.c"]  # every dnn has the same width
    assert labels == ["backbone=dnn loss.c=0.7", "backbone=dnn loss.c=0.8", "backbone=fm loss.c=0.7"]
    assert by_config([*configs, {**configs[0], "backbone.width": "20"}]).names == [
        "backbone",
        "backbone.width",
        "loss.c",
    ]
    assert by_config(configs[:1] * 2).labels == ["as composed"] * 2


def test_a_run_of_an_older_version_is_one_with_the_new_option_turned_off():
    old, off, on = ({"backbone": "dnn", **more} for more in ({}, {"calibrate": "false"}, {"calibrate": "true"}))
    assert by_config([old, off]).labels == ["as composed"] * 2
    assert by_config([old, off, on]).labels == ["calibrate=false", "calibrate=false", "calibrate=true"]


def test_a_further_encoder_is_named_as_on_the_command_line():
    further = {"encoder@backbone.m1": "mlp", "backbone.m1._target_": "MLP"}
    configs = [{"backbone": "dual_mlp"}, {"backbone": "dual_mlp", **further}]
    assert by_config(configs).labels == ["as composed", "encoder@backbone.m1=mlp"]


def test_backbone_and_framework_are_both_named_if_they_differ():
    configs = [
        {"backbone": "dnn", "framework": "plain", "loss": "bce"},
        {"backbone": "dual_mlp", "framework": "tf4ctr", "loss": "tf"},
    ]
    assert by_config(configs).labels == ["backbone=dnn framework=plain", "backbone=dual_mlp framework=tf4ctr"]


def test_grouped_keys_tell_apart_without_a_name():
    configs = [{"dataset": "a", "loss.c": "1"}, {"dataset": "b", "loss.c": "2"}, {"dataset": "b", "loss.c": "3"}]
    assert by_config(configs, ("dataset",)).labels == ["loss.c=1", "loss.c=2", "loss.c=3"]
    assert by_config(configs[:2], ("dataset",)).labels == ["as composed"] * 2


def test_long_values_are_short_and_stay_different():
    histories = [[{"name": "history", "width": "5"}], [{"name": "history", "width": "9"}], "null", "x" * 50]
    labels = by_config([{"h": value} for value in histories]).labels
    assert labels == ["h=[history]", "h=[history] #2", "h=null", f"h={'x' * 39}…"]


def test_a_run_without_a_config_is_named_by_its_overrides():
    configs = [{"loss.c": "1"}, {"loss.c": "2"}, {}]
    overrides = [{}, {}, {"loss.c": "loss.c=oops"}]
    _, values, labels = by_config(configs, (), overrides)
    assert labels == ["loss.c=1", "loss.c=2", "loss.c=oops"]
    assert values[2] == {"loss.c": None}


def test_one_sweep_is_named_by_overrides_and_other_runs_by_config():
    overrides = [{"loss.c": "loss.c=0.7"}, {}]
    configs = [{"loss.c": "0.7"}, {"loss.c": "0.7"}]
    assert settings_of(frame_of(["a/0", "a/1"], overrides, configs)).labels == ["loss.c=0.7", "as composed"]
    assert settings_of(frame_of(["a/0", "b/0"], overrides, configs)).labels == ["as composed"] * 2
    assert settings_of(frame_of(["a/x", "a/y"], overrides, configs)).labels == ["as composed"] * 2
    assert settings_of(frame_of(["a/x", "a/y"], overrides, [{}, {}])).labels == ["loss.c=0.7", "as composed"]


def test_options_of_the_datasets_tell_runs_apart_also_if_there_are_several_datasets():
    texts = [
        {"dataset": f"dataset={name}", "dataset.min_count": f"dataset.min_count={count}"}
        for name in ("toy", "other")
        for count in (1, 10)
    ]
    names, _, labels = by_overrides(texts, ("dataset",))
    assert names == ["dataset.min_count"]
    assert labels == ["dataset.min_count=1", "dataset.min_count=10"] * 2


def test_values_that_are_the_same_are_so_however_they_are_written():
    configs = [
        {"loss.gamma": "2", "loss.focus": ["0", "1"], "callbacks.x._target_": "tf4ctr.callbacks.LRPlateau"},
        {"loss.gamma": "2.0", "loss.focus": ["0.0", "1"], "callbacks.x._target_": "tf4ctr.training.plateau.LRPlateau"},
    ]
    assert by_config(configs).labels == ["as composed"] * 2
    assert by_config([*configs, {**configs[0], "loss.gamma": "3"}]).labels == [
        *["loss.gamma=2"] * 2,
        "loss.gamma=3",
    ]


def test_long_values_that_contain_the_mark_of_a_number_stay_different():
    values = [f"{'a' * 20} #1{'b' * 30}{end}" for end in "xyz"]
    assert len({*by_config([{"h": value} for value in values]).labels}) == 3


def test_seeds_do_not_tell_runs_without_a_config_apart():
    overrides = [{"x": "x=3", "seed": f"seed={seed}"} for seed in (1, 2)]
    assert by_config([{}, {}], (), overrides).labels == ["x=3", "x=3"]
