"""Options of regularisers: defined once for the user, and the same as those of the methods themselves."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields

import pytest

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.regularisation.registry import REGULARISERS, regulariser_named
from halfmap.settings.regularisers import PREFIXES, RegulariserOptions, check_options, regulariser_options

OPTIONS = [f for f in fields(RegulariserOptions) if f.name != "regulariser"]
# A value other than the default that may be given on its own.
CHANGED = {"cutoff_resolution": 8.0, "cutoff_threshold": 0.5, "cutoff_edge": 1.0, "local_fsc_mode": "wiener",
           "local_fsc_window": 40.0, "local_fsc_threshold": 0.3, "sidesplitter_mode": "spectrum"}


@dataclass(frozen=True, kw_only=True)
class Command(RegulariserOptions):
    """A command with options of its own, one of which begins like those of a method."""

    split_by: str = "particle"


@pytest.mark.parametrize("name", REGULARISERS)
def test_an_option_has_the_default_of_the_method_that_it_belongs_to(name):
    of_method = {f.name: f.default for f in fields(REGULARISERS[name])}
    for option in OPTIONS:
        if option.name.startswith(PREFIXES[name]):
            own = option.name.removeprefix(PREFIXES[name])
            assert own in of_method and of_method[own] is not MISSING, option.name
            assert of_method[own] == option.default, option.name


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_method_is_made_from_the_options_with_its_prefix(name):
    settings = RegulariserOptions(regulariser=name)
    made = regulariser_named(name, **regulariser_options(settings))
    assert made == regulariser_named(name) and made.name == name and made.crosses


def test_every_option_belongs_to_one_method_and_every_method_can_be_chosen():
    assert set(REGULARISERS) <= set(PREFIXES)
    for option in OPTIONS:
        assert sum(option.name.startswith(prefix) for prefix in PREFIXES.values()) == 1, option.name


@pytest.mark.parametrize(("option", "value"), CHANGED.items())
def test_an_option_reaches_its_own_method_and_is_refused_by_the_others(option, value):
    for name in REGULARISERS:
        settings = RegulariserOptions(regulariser=name, **{option: value})
        if option.startswith(PREFIXES[name]):
            check_options(settings)
            made = regulariser_named(name, **regulariser_options(settings))
            assert getattr(made, option.removeprefix(PREFIXES[name])) == value
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
