"""Records, the table, the file, the picture and the progress bar of a run."""

import io
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from growthnet._history.history import GrowthEvent, History, JsonLog, Tick
from growthnet._history.progress import Progress


def an_event(step=10, old=4, new=5, **changes):
    given = {"kind": "opened", "loss_before": 1.5, "loss_after": 1.5}
    return GrowthEvent(step, "layers[0]", old, new, **{**given, **changes})


def a_tick(step=10, loss=1.0, size=4, **changes):
    sizes = {"layers[0]": size}
    given = {"sizes": sizes, "params": 75 * size, "seconds": 0.5, "traces": 1}
    return Tick(step, loss, **{**given, **changes})


def a_run(ticks=20, every=10):
    """One that grows by a unit every second tick, with one real resize."""
    history = History()
    for i in range(1, ticks + 1):
        if i % 2 == 0:
            kind = "resized" if i == 8 else "opened"
            old = 3 + i // 2
            history.add_event(an_event(i * every, old, old + 1, kind=kind))
        loss = 4 * math.exp(-i / 5)
        size = 4 + i // 2
        history.add_tick(a_tick(i * every, loss, size, valid_loss=loss + 0.1))
    return history


counts = st.integers(0, 10**6)
numbers = st.floats(allow_nan=True, allow_infinity=True)
names = st.text(min_size=1, max_size=8)
metrics = st.dictionaries(names, numbers | st.lists(numbers, max_size=3), max_size=2)
ticks = st.fixed_dictionaries(
    {
        "step": counts,
        "loss": numbers,
        "sizes": st.dictionaries(names, counts, max_size=3),
        "params": counts,
        "seconds": st.floats(0, 1e6),
        "traces": counts,
        "valid_loss": st.none() | numbers,
        "metrics": metrics,
    }
)
events = st.fixed_dictionaries(
    {
        "step": counts,
        "width": names | st.just("NaN"),
        "old": counts,
        "new": counts,
        "kind": st.sampled_from(["opened", "resized", "replaced", "rewritten"]),
        "loss_before": numbers,
        "loss_after": numbers,
        "output_change": st.none() | numbers,
        "seconds": st.floats(0, 1e6),
        "compiles": counts,
        "closed": counts,
    }
)


def in_steps(fields):
    return st.lists(fields, max_size=4).map(
        lambda x: sorted(x, key=lambda r: r["step"])
    )


def made(ticks, events):
    """Outside of strategies, where run-time type checks may look at random items."""
    return History([Tick(**t) for t in ticks], [GrowthEvent(**e) for e in events])


def written(history):
    """All values, such that NaN equals NaN and 1 differs from 1.0."""
    return [repr(record) for record in (*history.ticks, *history.events)]


@given(ticks=in_steps(ticks), events=in_steps(events))
def test_the_file_gives_back_every_record(ticks, events, tmp_path_factory):
    history = made(ticks, events)
    path = tmp_path_factory.mktemp("history") / "run.jsonl"
    history.to_jsonl(path)
    assert written(History.from_jsonl(path)) == written(history)
    assert [file.name for file in path.parent.iterdir()] == ["run.jsonl"]


@given(ticks=in_steps(ticks), events=in_steps(events))
def test_the_log_gives_back_what_the_file_does(ticks, events, tmp_path_factory):
    history = made(ticks, events)
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    with JsonLog(path) as log:
        for event in history.events:
            log.add_event(event)
        for tick in history.ticks:
            log.add_tick(tick)
    assert written(History.from_jsonl(path)) == written(history)


def test_every_line_is_strict_json(tmp_path):
    path = tmp_path / "run.jsonl"
    event = an_event(loss_before=math.nan, loss_after=-math.inf)
    History([a_tick(loss=math.inf)], [event]).to_jsonl(path)

    def refuse(constant):
        raise AssertionError(constant)

    lines = path.read_text().splitlines()
    start, tick, event = (json.loads(x, parse_constant=refuse) for x in lines)
    assert (start["record"], tick["record"], event["record"]) == (
        *("start", "tick", "event"),
    )
    assert (tick["loss"], event["loss_before"]) == ("Infinity", "NaN")
    assert event["loss_after"] == "-Infinity"


def test_a_log_can_be_read_while_it_is_written(tmp_path):
    with JsonLog(tmp_path / "run.jsonl") as log:
        log.add_tick(a_tick(10))
        assert len(History.from_jsonl(tmp_path / "run.jsonl").ticks) == 1
        log.add_event(an_event(10))
        assert len(History.from_jsonl(tmp_path / "run.jsonl").events) == 1


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        for step in (10, 20, 30):
            log.add_event(an_event(step))
            log.add_tick(a_tick(step, loss=1.0))
    with JsonLog(path, step=20) as log:
        log.add_tick(a_tick(30, loss=2.0))
    history = History.from_jsonl(path)
    assert [(t.step, t.loss) for t in history.ticks] == [(10, 1), (20, 1), (30, 2)]
    assert [e.step for e in history.events] == [10, 20]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log:
        log.add_tick(a_tick(10, metrics={"größe": 1.0}))
        log.add_tick(a_tick(20))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="was cut short and is left out"):
        assert [t.step for t in History.from_jsonl(path).ticks] == [10]
    with pytest.warns(UserWarning, match="was cut short and is left out"):
        log = JsonLog(path, step=10)
    with log:
        log.add_tick(a_tick(20))
    assert [t.step for t in History.from_jsonl(path).ticks] == [10, 20]


@pytest.mark.parametrize(
    "text, number, why",
    [
        ("1 2 3\n", 1, "Extra data"),
        ('{"record": "tick", "step": 3}\n', 1, "where the run starts"),
        ('{"record": "start", "version": 99, "step": 0}\n', 1, "format 99"),
        ('{"record": "start", "version": 1, "step": 0}\n[]\n', 2, ""),
        ('{"record": "start", "version": 1, "step": 0}\n{"record": "x"}\n', 2, "'x'"),
    ],
)
def test_a_foreign_file_is_refused_by_line(tmp_path, text, number, why):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"line {number} of .*run.jsonl.*{why}"):
        History.from_jsonl(path)


def test_a_log_does_not_write_into_other_files(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n")
    with pytest.raises(ValueError, match="isn't a log of growthnet; give another path"):
        JsonLog(path)
    assert path.read_text() == "buy milk\n"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    a_run().to_jsonl(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        History().to_jsonl(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_are_stored_as_plain_numbers():
    metrics = {"norms": jnp.arange(2), "rate": np.float32(0.5)}
    assert a_tick(metrics=metrics).metrics == {"norms": [0.0, 1.0], "rate": 0.5}


def test_records_say_what_is_wrong_with_them():
    with pytest.raises(ValueError, match="old is -1, but it counts: give 0 or more"):
        an_event(old=-1)
    with pytest.raises(ValueError, match=r"sizes\['a'\] is -2, but it counts"):
        a_tick(sizes={"a": -2})
    with pytest.raises(ValueError, match="the metric 'name' is a str, but a metric"):
        a_tick(metrics={"name": "net"})


def test_an_unknown_kind_of_event_is_refused():
    # Run-time type checks, if they are on, complain before the class does.
    with pytest.raises(Exception, match="kind"):
        an_event(kind="grown")


def test_records_come_in_order():
    history = History([a_tick(20)], [an_event(20)])
    with pytest.raises(
        ValueError, match="no tick at step 10 can follow one at step 20"
    ):
        history.add_tick(a_tick(10))
    with pytest.raises(ValueError, match="no event at step 10 .*`rewind` first"):
        history.add_event(an_event(10))
    history.rewind(10)
    history.add_tick(a_tick(10))
    assert history.steps == 10


def test_the_table_lines_up():
    change = an_event(1200, 9, 12, kind="resized", seconds=0.25, compiles=1)
    history = History(events=[an_event(40, output_change=0.0), change])
    assert history.table().splitlines() == [
        "step  width        units  how      loss before  loss after  output change"
        "  seconds  compiles",
        "  40  layers[0]   4 -> 5  opened           1.5         1.5              0"
        "    0.000         0",
        "1200  layers[0]  9 -> 12  resized          1.5         1.5              -"
        "    0.250         1",
    ]


def test_the_table_shows_both_ends_of_a_long_run():
    history = History(events=[an_event(i, i, i + 1) for i in range(50)])
    lines = history.table(rows=5).splitlines()
    assert lines[4] == "... 45 more"
    steps = [line.split()[0] for line in lines]
    assert steps == ["step", "0", "1", "2", "...", "48", "49"]
    assert len(history.table(rows=50).splitlines()) == 51
    with pytest.raises(ValueError, match="rows is 1, but it must be at least 2"):
        history.table(rows=1)


def test_the_table_tells_closing_from_opening():
    events = [an_event(1, 4, 5), an_event(2, 5, 3), an_event(3, 3, 2, kind="resized")]
    rows = History(events=events).table().splitlines()[1:]
    assert [row.split()[5] for row in rows] == ["opened", "closed", "resized"]
    legend = History([a_tick(3)], events).plot().axes[1].get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["layers[0]", "opened or closed", "resized"]


def test_the_table_tells_who_is_new():
    events = [
        an_event(1, 4, 4, kind="replaced", closed=3),
        an_event(2, 4, 5, closed=1),
        an_event(3, 5, 2, closed=3),
        an_event(4, 2, 2, kind="rewritten"),
    ]
    rows = History(events=events).table().splitlines()[1:]
    told = ["4 -> 4 (3 new)", "4 -> 5 (1 new)", "5 -> 2", "2 -> 2"]
    for row, units, how in zip(
        rows, told, ["replaced", "opened", "closed", "rewritten"], strict=True
    ):
        assert f"{units}  {how}" in row


def test_short_texts():
    assert History([a_tick(30)]).table() == "no growth events in 30 steps"
    history = a_run()
    assert repr(history) == "History(ticks=20, events=10)"
    assert str(history).startswith("200 steps, 10 growth events; loss 3.275 -> ")
    assert str(history).endswith("layers[0] 4 -> 14")
    assert str(History()) == "0 steps, 0 growth events"


def test_sizes_are_known_from_the_start():
    history = a_run(ticks=4)
    assert history.sizes_of("layers[0]") == ([0, 10, 20, 30, 40], [4, 4, 5, 5, 6])
    with pytest.raises(ValueError, match=r"unknown width 'layers'; .* has layers\[0\]"):
        history.sizes_of("layers")


def test_the_plot_holds_the_data(tmp_path):
    history = a_run()
    figure = history.plot(tmp_path / "run.png", title="a run")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    upper, lower = figure.axes
    training, validation = upper.get_lines()
    steps = [tick.step for tick in history.ticks]
    np.testing.assert_array_equal(training.get_xdata(), steps)
    np.testing.assert_array_equal(
        training.get_ydata(), [tick.loss for tick in history.ticks]
    )
    np.testing.assert_array_equal(
        validation.get_ydata(), [tick.valid_loss for tick in history.ticks]
    )
    (sizes,) = lower.get_lines()
    np.testing.assert_array_equal(sizes.get_xdata(), [0, *steps, steps[-1]])
    assert (sizes.get_ydata()[0], sizes.get_ydata()[-1]) == (4, 14)
    assert sizes.get_drawstyle() == "steps-post"
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    for axes in figure.axes:
        marked = {
            kind: [line[0][0] for line in lines.get_segments()]
            for kind, lines in zip(["opened", "resized"], axes.collections, strict=True)
        }
        assert marked["resized"] == [80]
        assert marked["opened"] == [e.step for e in history.events if e.step != 80]


def test_the_plot_stays_linear_where_a_logarithm_fails():
    ticks = [a_tick(10, 5.0), a_tick(20, math.nan), a_tick(30, -0.1)]
    (upper, lower) = History(ticks).plot().axes
    assert upper.get_yscale() == "linear"
    assert not upper.collections and not lower.collections
    assert len(upper.get_lines()) == 1


def test_many_widths_have_no_legend():
    sizes = {f"layers[{i}]": i for i in range(9)}
    _, lower = History([a_tick(10, sizes=sizes)]).plot().axes
    assert len(lower.get_lines()) == 9
    assert lower.get_legend() is None


def test_a_plot_leaves_pyplot_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert len(a_run().plot().axes) == 2


def test_plots_without_matplotlib_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "growthnet\[plots\]"'):
        a_run().plot()


def test_an_empty_history_has_no_plot():
    with pytest.raises(ValueError, match="this history has no ticks yet"):
        History().plot()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, steps=1000, every=20, **more):
    record = {"steps": steps, "loss": 0.25, "params": 300, **more}
    with Progress("growing", stream=stream) as progress:
        for step in range(every, steps + 1, every):
            progress({**record, "step": step, "sizes": {"layers[0]": step}})
    return stream.getvalue()


def test_progress_without_a_terminal_is_a_line_per_tenth():
    lines = shown(io.StringIO()).splitlines()
    assert len(lines) == 10
    assert lines[0] == (
        "growing:  100/1000 steps  loss 0.2500  layers[0] 100  300 parameters"
    )
    assert "(valid 0.5000)" in shown(io.StringIO(), valid_loss=0.5)
    assert len(shown(io.StringIO(), steps=3, every=1).splitlines()) == 3


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "\x1b[" in text and "1000/1000" in text and "layers[0] 1000" in text


def test_progress_without_rich_is_plain(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert shown(Terminal()) == shown(io.StringIO())
