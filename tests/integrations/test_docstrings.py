"""Docstrings of integrations, which are made from those of the NumPy functions."""

import inspect

import pytest

import fastdrop as fd
import fastdrop.autograd
import fastdrop.dask
from fastdrop._noises._described import _entries, _sections, described_by

FUNCTIONS = [
    function
    for module in (fd.autograd, fd.dask)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_"
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_every_argument_is_described_once_and_there_is_an_example(function):
    sections = _sections(function.__doc__)
    names = [name for entry, _ in _entries(sections["Parameters"]) for name in entry]
    assert sorted(names) == sorted(inspect.signature(function).parameters)
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
