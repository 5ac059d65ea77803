"""Docstrings: those of all public names, and those of integrations, made from the NumPy functions'."""

import inspect

import pytest
from every_name import FACES, public

import fastdrop as fd
import fastdrop.autograd
import fastdrop.dask
from fastdrop._noises._described import _entries, _sections, described_by

NOT_MADE_BY_USERS = {"Installation", "SequenceMask"}  # beside named tuples
FUNCTIONS = [f for module in (fd.autograd, fd.dask) for f in public(module.__name__).values()]


def arguments(value):
    """The names of what a function or a class takes."""
    return sorted(inspect.signature(value).parameters)


def described(value, title="Parameters"):
    """The names that a section of a docstring describes."""
    section = _sections(value.__doc__).get(title, "")
    return sorted(name.lstrip("*") for entry, _ in _entries(section) for name in entry)


def made_by_users(value):
    """Whether it is a function, or a class whose constructor users call."""
    return value.__name__ not in NOT_MADE_BY_USERS and not hasattr(value, "_fields")


@pytest.mark.parametrize("face", FACES)
def test_every_argument_of_every_public_name_is_described_once(face):
    found = {name: value for name, value in public(face).items() if made_by_users(value)}
    assert found
    gaps = {name: (arguments(v), described(v)) for name, v in found.items() if arguments(v) != described(v)}
    assert not gaps


@pytest.mark.parametrize("face", FACES)
def test_every_field_of_a_named_tuple_is_described_once(face):
    fields = {name: sorted(v._fields) for name, v in public(face).items() if hasattr(v, "_fields")}
    assert fields == {name: described(public(face)[name], "Attributes") for name in fields}


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_has_examples(face):
    assert not [name for name, value in public(face).items() if ">>> " not in value.__doc__]


def undescribed(x, key):
    """Return x.

    Parameters
    ----------
    x : array_like
        The input.
    """


def described_twice(x):
    """Return x.

    Parameters
    ----------
    x : array_like
        The input.
    x
        As ever.
    """


@pytest.mark.parametrize("function", [undescribed, described_twice])
def test_a_gap_is_seen(function):
    assert arguments(function) != described(function)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_a_docstring_that_was_made_has_a_summary_and_an_example(function):
    sections = _sections(function.__doc__)
    assert f"{function.__module__.partition('.')[2]}.{function.__name__}(" in sections["Examples"]
    assert sections[""].startswith("Return ")
    assert "    ..." not in function.__doc__


def source(x, p, key, *, out=None, mode="a"):
    """Return x.

    Parameters
    ----------
    x : array_like
        The input.
    p, key, out
        As ever.
    mode : str
        How, in words

        of two paragraphs.

    Returns
    -------
    ndarray
        y.

    Examples
    --------
    >>> 1 + 1
    2
    """


def test_what_a_docstring_lacks_comes_from_the_other():
    @described_by(source, words={"array_like": "tensor"})
    def ours(x, key, *, extra=1, mode="a"):
        """Return x, lazily.

        Parameters
        ----------
        extra : int
            Ours.

        Examples
        --------
        >>> 2 + 2
        4
        """

    assert ours.__name__ == "ours"
    assert list(inspect.signature(ours).parameters) == ["x", "key", "extra", "mode"]
    assert (
        ours.__doc__
        == inspect.cleandoc(
            """Return x, lazily.

        Parameters
        ----------
        x : tensor
            The input.
        key
            As ever.
        extra : int
            Ours.
        mode : str
            How, in words

            of two paragraphs.

        Returns
        -------
        ndarray
            y.

        Examples
        --------
        >>> 2 + 2
        4
        """
        )
        + "\n"
    )


def test_without_docstrings_nothing_is_made():
    def bare(x):
        pass

    assert described_by(source)(bare).__doc__ is None
