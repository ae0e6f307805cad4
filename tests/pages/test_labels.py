"""Labels: each in the room, none on another, on a point or on a whisker; none at all rather than one that hides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kept.pages.labels import GAP, Box, Place, places

ROOM = Box(0.0, 0.0, 300.0, 200.0)
POINTS = st.lists(st.tuples(st.floats(5.0, 295.0), st.floats(5.0, 195.0)), min_size=1, max_size=12)


def dots(points: list[tuple[float, float]]) -> list[Box]:
    return [Box(x - 3, y - 3, x + 3, y + 3) for x, y in points]


def clear(found: list[Place], taken: list[Box]) -> bool:
    boxes = [place.box for place in found]
    apart = not any(a.meets(b) for n, a in enumerate(boxes) for b in boxes[:n])
    return apart and not any(box.meets(other) for box in boxes for other in taken)


@given(POINTS, st.floats(5.0, 120.0), st.integers(1, 4))
def test_what_is_placed_hides_nothing(points: list[tuple[float, float]], width: float, rings: int) -> None:
    found = places(points, [(width, 10.0)] * len(points), dots(points), ROOM, rings)
    if found is not None:
        assert len(found) == len(points)
        assert clear(found, dots(points))
        assert all(place.box.within(ROOM) for place in found)
        assert all(max(abs(place.dx), abs(place.dy)) <= GAP * rings for place in found)


def test_the_right_is_best_and_else_where_there_is_room() -> None:
    (alone,) = places([(100.0, 100.0)], [(50.0, 10.0)], [], ROOM, 1) or []
    assert alone.side == (1, 0)
    (edge,) = places([(290.0, 100.0)], [(50.0, 10.0)], [], ROOM, 1) or []
    assert edge.side == (-1, 0)
    whiskers = Box(0.0, 97.0, 300.0, 103.0)
    (beside,) = places([(100.0, 100.0)], [(50.0, 10.0)], [whiskers], ROOM, 2) or []
    assert beside.side[1] != 0


def test_points_on_one_another_have_no_room_for_names() -> None:
    """The negative control: without what is taken, they would have."""
    points = [(150.0, 100.0)] * 12
    assert places(points, [(120.0, 10.0)] * 12, dots(points), ROOM, 2) is None
    assert places(points, [(5.0, 5.0)] * 12, dots(points), ROOM, 9) is not None
    assert places([], [], [], ROOM, 1) == []


def test_what_finds_no_place_is_asked_first() -> None:
    """The second label fits only to the right, where the first would go."""
    room, points = Box(0.0, 90.0, 300.0, 110.0), [(140.0, 100.0), (135.0, 100.0)]
    found = places(points, [(100.0, 18.0), (150.0, 18.0)], [], room, 1)
    assert found is not None
    assert [place.side for place in found] == [(-1, 0), (1, 0)]
