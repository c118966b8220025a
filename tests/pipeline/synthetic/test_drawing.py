import numpy as np

from pipeline.synthetic.drawing import coverage


def test_coverage_measures_partial_pixels_and_what_lies_outside():
    square = np.array([[-3, 0.5], [2.5, 0.5], [2.5, 9], [-3, 9]])
    hole = np.array([[0, 1], [1, 1], [1, 2], [0, 2]])
    expected = [[0.5, 0.5, 0.25], [0, 1, 0.5], [1, 1, 0.5]]
    np.testing.assert_array_equal(coverage([square, hole], 3, 3), expected)
    assert not coverage([square + 100], 3, 3).any()
