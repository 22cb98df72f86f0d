"""Policies by name: entry points that are there, clash, fail, or aren't policies."""

import importlib.metadata as metadata

import pytest

import growthnet as gn
from growthnet._policies import registry as _registry
from growthnet_policies import GradientSizeWeight


def installed(monkeypatch, *pairs):
    """Entry points of these names and values, instead of those that are installed."""
    entries = [metadata.EntryPoint(n, v, _registry.GROUP) for n, v in pairs]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)


SIZE_WEIGHT = ("size_weight", "growthnet_policies:GradientSizeWeight")


def test_a_name_gives_a_class(monkeypatch):
    installed(monkeypatch, ("z", "nowhere:Z"), SIZE_WEIGHT)
    assert list(gn.available_policies()) == ["size_weight", "z"]
    assert gn.load_policy("size_weight") is GradientSizeWeight


def test_our_own_policies_are_installed():
    assert gn.load_policy("gradient_size_weight") is GradientSizeWeight


def test_unknown_names_are_told_the_known_ones(monkeypatch):
    installed(monkeypatch, SIZE_WEIGHT)
    with pytest.raises(ValueError, match="unknown policy 'x'; installed are size_wei"):
        gn.load_policy("x")


def test_two_of_one_name_are_refused_with_both(monkeypatch):
    installed(monkeypatch, SIZE_WEIGHT, ("size_weight", "other:Thing"))
    with pytest.raises(ValueError, match="'growthnet_pol.*'other:Thing'"):
        gn.available_policies()
    # The same thing, found twice on the path, is no clash.
    installed(monkeypatch, SIZE_WEIGHT, SIZE_WEIGHT)
    assert list(gn.available_policies()) == ["size_weight"]


def test_a_broken_package_is_named_and_the_rest_works(monkeypatch):
    installed(monkeypatch, ("broken", "no_such_package:Policy"), SIZE_WEIGHT)
    with pytest.raises(ValueError, match="'broken' .* can't be imported: ModuleNotFou"):
        gn.load_policy("broken")
    assert gn.load_policy("size_weight") is GradientSizeWeight


def test_what_is_no_policy_is_refused(monkeypatch):
    installed(monkeypatch, ("thing", "math:sqrt"))
    with pytest.raises(ValueError, match="no subclass of growthnet.AbstractPolicy"):
        gn.load_policy("thing")
