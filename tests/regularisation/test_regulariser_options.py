"""Options of regularisers: defined once for the user, and the same as those of the methods themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.regularisers import (
    DECLARED,
    REGULARISERS,
    RegulariserOptions,
    as_one_name,
    check_options,
    regulariser_named,
    regulariser_options,
    with_regulariser,
)

OPTIONS = [f for f in fields(RegulariserOptions) if f.name != "regulariser"]
# A value other than the default that may be given on its own.
CHANGED = {"cutoff_resolution": 8.0, "cutoff_threshold": 0.5, "cutoff_edge": 1.0, "local_fsc_mode": "wiener",
           "local_fsc_window": 40.0, "local_fsc_threshold": 0.3, "sidesplitter_mode": "spectrum"}


@dataclass(frozen=True, kw_only=True)
class Command(RegulariserOptions):
    """A command with options of its own, one of which begins like those of a method."""

    split_by: str = "particle"


def test_every_option_belongs_to_one_prefix_and_a_prefix_to_one_dataclass():
    prefixes = {one.prefix: one.options for one in DECLARED.values()}
    for option in OPTIONS:
        (owner,) = (prefix for prefix in prefixes if option.name.startswith(prefix))
        assert option in fields(prefixes[owner]), option.name
    assert all(prefixes[one.prefix] is one.options for one in DECLARED.values())


@pytest.mark.parametrize(("option", "value"), CHANGED.items())
def test_an_option_reaches_its_own_method_and_is_refused_by_the_others(option, value):
    for name in REGULARISERS:
        settings = RegulariserOptions(regulariser=name, **{option: value})
        if option.startswith(DECLARED[name].prefix):
            check_options(settings)
            made = regulariser_named(name, **regulariser_options(settings))
            assert getattr(made, option.removeprefix(DECLARED[name].prefix)) == value
        else:
            with pytest.raises(InputError) as refused:
                check_options(settings)
            assert "--" + option.replace("_", "-") in str(refused.value) and name in str(refused.value)


@pytest.mark.parametrize("name", REGULARISERS)
def test_an_option_of_the_command_is_never_taken_for_one_of_a_method(name):
    settings = Command(regulariser=name, split_by="micrograph")
    check_options(settings)
    assert "by" not in regulariser_options(settings)


@pytest.mark.parametrize(("options", "said"), [
    ({"cutoff_weight": 0.5}, "--cutoff-weight: acts outside of a mask"),
    ({"cutoff_outside": 20.0}, "--cutoff-outside: acts outside of a mask"),
    ({"cutoff_mask": "m.mrc"}, "--cutoff-mask: changes nothing alone"),
    ({"cutoff_mask": "m.mrc", "cutoff_weight": 1.5}, "between 0 and 1"),
    ({"cutoff_mask": "m.mrc", "cutoff_weight": 0.0, "cutoff_outside": 20.0}, "no effect"),
    ({"cutoff_mask": "m.mrc", "cutoff_outside": 6.0, "cutoff_resolution": 8.0}, "coarser than"),
    ({"cutoff_threshold": 0.5, "cutoff_resolution": 8.0}, "leave one out"),
])  # fmt: skip
def test_options_of_the_resolution_limit_that_leave_each_other_idle_are_refused(options, said):
    with pytest.raises(InputError) as refused:
        check_options(RegulariserOptions(regulariser="cutoff", **options))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_values_out_of_bounds_are_refused():
    for wrong in ({"cutoff_resolution": 0.0}, {"cutoff_edge": -1.0}, {"local_fsc_window": 0.0},
                  {"local_fsc_mode": "box"}, {"sidesplitter_mode": "rotfl"}, {"regulariser": "wiener"}):
        with pytest.raises(InputError):
            check_declared(RegulariserOptions(**wrong))


def test_joined_and_strengths_by_place_are_one_method_under_either_name():
    for given in ({"regulariser": "joined"}, {"regulariser": "sparse_smooth", "ss_parameters": "local"},
                  {"regulariser": "joined", "ss_parameters": "local"}):
        settings = RegulariserOptions(**given, ss_alpha=0.4)
        check_options(settings)
        one = as_one_name(settings)
        assert (one.regulariser, one.ss_parameters, one.ss_alpha) == ("joined", "local", 0.4)
        assert regulariser_options(settings) == regulariser_options(one)
    made = regulariser_named("joined", **regulariser_options(one))
    assert (made.name, made.parameters, made.alpha) == ("joined", "local", 0.4)
    with pytest.raises(InputError, match="sets the strength of each place"):
        check_options(RegulariserOptions(regulariser="joined", ss_parameters="cross-validated"))
    with pytest.raises(InputError, match="both are 0"):
        check_options(RegulariserOptions(regulariser="joined", ss_alpha=0.0, ss_beta=0.0))


def test_another_regulariser_takes_over_the_options_that_are_its_own_and_no_others():
    joined = RegulariserOptions(regulariser="joined", ss_parameters="local", ss_alpha=0.4)
    fixed = with_regulariser(joined, "sparse_smooth")
    assert (fixed.regulariser, fixed.ss_parameters, fixed.ss_alpha) == ("sparse_smooth", "fixed", 0.4)
    assert with_regulariser(fixed, "joined") == joined
    assert with_regulariser(joined, "uniform") == RegulariserOptions(regulariser="uniform")
    chosen = RegulariserOptions(regulariser="sparse_smooth", ss_parameters="cross-validated")
    assert with_regulariser(chosen, "sparse_smooth") == chosen
    for name in REGULARISERS:
        check_options(with_regulariser(chosen, name))
