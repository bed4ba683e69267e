import pytest

from pipelines.data.prose import normalised, prose_paragraphs

NUMPYDOC = """Compute the weighted average along the given axis.

    The average is taken over the flattened array by default, otherwise
    over the given axis. See :func:`numpy.mean` and `other` for ``more`` of it.

    .. versionadded:: 1.7
       It was not there before this version came out to us.

    Parameters
    ----------
    a : array_like
        Array that holds the data to be averaged over here.
    axis : None or int, optional
        Axis along which the averaging of the array is done.

    Returns
    -------
    average : ndarray
        The average along the axis that was given above.

    Examples
    --------
    >>> data = np.arange(1, 5)
    >>> print("this is the output of an example in a doctest")
    this is the output of an example in a doctest

    ======  =================================
    name    what it means to us all and you
    ======  =================================

    .. note:: The result is always of the same type as the input array.

    The following code shows how it is used in the wild::

        average(values, weights=weights) and so on and so on and on

    Afterwards the array is returned to the one who called for it.
    """


def test_numpydoc_keeps_sentences_and_drops_headings_types_examples_and_tables():
    assert prose_paragraphs(NUMPYDOC) == [
        "Compute the weighted average along the given axis.",
        "The average is taken over the flattened array by default, otherwise over the given axis. "
        "See mean and other for more of it.",
        "Array that holds the data to be averaged over here.",
        "Axis along which the averaging of the array is done.",
        "The average along the axis that was given above.",
        "The result is always of the same type as the input array.",
        "The following code shows how it is used in the wild:",
        "Afterwards the array is returned to the one who called for it.",
    ]


def test_google_sphinx_and_markdown_fields_keep_their_descriptions():
    docstring = """Do the thing that the caller wants us to do.

    Args:
        name (`str`, *optional*): The name under which the thing is found,
            also when there are several of them.
        **kwargs: Passed on.

    :param size: how large the thing may at most become
    :type size: int
    - **alpha** -- weight of the first term in the whole sum

    ```python
    thing = do(name="this is code and not prose at all")
    ```
    """
    assert prose_paragraphs(docstring) == [
        "Do the thing that the caller wants us to do.",
        "The name under which the thing is found, also when there are several of them.",
        "how large the thing may at most become",
        "weight of the first term in the whole sum",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Too short to keep.",
        "x = y + z == w // 2 -> (a, b) [1] {2}",
        "A sentence with a lone \ud800 surrogate in the middle of it.",
        "A sentence with a control \x07 character in the middle of it.",
        r"Some formula such as \frac{a}{b} stands within the text here.",
    ],
)
def test_what_is_no_prose_is_dropped(text):
    assert prose_paragraphs(text) == []


def test_copies_are_recognised_whatever_their_case_spacing_and_punctuation():
    assert normalised("Read the  Docs, please!") == normalised("read the docs please")
    assert normalised("Read the docs") != normalised("Read the doc")
