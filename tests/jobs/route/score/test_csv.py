"""CSV: what a writer wrote comes back equal; what no reader can be sure of is refused with its line, and no row goes missing."""

import csv
import gzip
import io
import re

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.route.score.files import list_files
from jobs.route.score.records import read_records
from jobs.spec.loader import parse_spec
from jobs.spec.sections import CsvSpec, InputSpec

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path, content: str | bytes, **csv_options) -> list:
    """Records of a file of this content."""
    path = path if path.suffix else path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    spec = InputSpec(path=str(path), csv=csv_options)
    return [record for file in list_files(spec) for record in read_records(file, spec, None)]


def rows(path, content: str | bytes, **csv_options) -> list[list[str]]:
    """The values of each row, none of which has an error."""
    records = read(path, content, **csv_options)
    assert not any(record.error for record in records), records
    return [list(record.columns.values()) for record in records]


def refused(path, content: str | bytes, **csv_options) -> str:
    with pytest.raises(InputError) as caught:
        read(path, content, **csv_options)
    assert str(caught.value).startswith("input.path: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,q\n1,a\n2,"open\n3,b\n4,c\n', 3),
        ('id,q\n1,a\n2,"open\n3,"b"\n4,c\n', 3),
        ('id,q\n1,a\n2,"open\n3,",b"\n4,c\n', 3),
        ('id,q\n1,"two\nlines"\n2,"open\n', 4),
        ('id,q\n1,"x\ny","z\n', 3),
        ('id,"q\n1,a\n', 1),
        ('id,q\r\n1,a\r\n2,"open\r\n3,b\r\n', 3),
        ('id,q\n\n\n1,"open', 4),
    ],
)
def test_an_open_quote_is_refused_with_the_line_where_it_opened(tmp_path, content, line):
    said = refused(tmp_path, content)
    assert f"line {line}: " in said and ("close its quote" in said or "put the field in quotes" in said)


def test_a_quoted_field_is_believed_up_to_a_number_of_lines(tmp_path):
    def table(n: int) -> str:
        return 'id,q\n1,a\n2,"' + "x\n" * (n - 1) + 'end"\n3,c\n'

    assert len(rows(tmp_path, table(100))) == 3
    said = refused(tmp_path, table(101))
    assert "line 3: " in said and "input.csv.max_field_lines" in said
    assert len(rows(tmp_path, table(150), max_field_lines=150)) == 3
    assert "line 3: " in refused(tmp_path, table(151), max_field_lines=150)
    assert "line 3: " in refused(tmp_path, table(7), max_field_lines=6)
    many = "id,q,r\n" + '1,"{0}","{0}"\n'.format("\n".join("x" * 80))
    assert len(rows(tmp_path, many)) == 1, "each of its fields is short enough"


def test_a_swallowed_table_ends_long_before_its_end(tmp_path):
    content = 'id,q\n1,"open\n' + "".join(f"{i},row\n" for i in range(149)) + '150,"closed"\n'
    assert "line 2: " in refused(tmp_path, content)
    assert "line 2: " in refused(tmp_path, content + 'x,y"\n')


def test_a_quote_within_a_field_costs_its_row_alone(tmp_path):
    found = read(tmp_path, 'id,q\n1,"say "hi" there"\n2,"b" c"d"\n3,5" pipe\n4,"d"\n')
    assert [bool(record.error) for record in found] == [True, True, False, False]
    assert "quote" in found[0].error and found[2].columns["q"] == '5" pipe'


def test_backslashes_are_understood_where_the_job_says_so_and_named_where_not(tmp_path):
    content = 'id,q\n1,"say \\"hi\\", \\\\ \\frac \\n"\n2,"ends in \\\\"\n3,"d"\n'
    assert "input.csv.escape: backslash" in refused(tmp_path, content)
    assert rows(tmp_path, content, escape="backslash") == [
        ["1", 'say "hi", \\ \\frac \\n'],
        ["2", "ends in \\"],
        ["3", "d"],
    ]
    assert "input.csv.escape: backslash" in refused(tmp_path, 'id,q,n\n1,"a\\",b",2\n')
    # A field that ends in a backslash is no escape.
    assert rows(tmp_path, 'id,q\n1,"C:\\"\n2,"\\\\server\\"\n') == [["1", "C:\\"], ["2", "\\\\server\\"]]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_what_the_header_says(tmp_path, delimiter):
    table = f'id{delimiter}q\n1{delimiter}a, b\n2{delimiter}"c{delimiter}d"\n'
    assert rows(tmp_path, table) == [["1", "a, b"], ["2", f"c{delimiter}d"]]
    assert rows(tmp_path / "x.tsv", table) == rows(tmp_path, table)


def test_a_delimiter_may_be_given_hinted_or_ambiguous(tmp_path):
    assert rows(tmp_path, "id:q\n1:a\n", delimiter=":") == [["1", "a"]]
    assert rows(tmp_path, "id\tq\n1\ta\n", delimiter="tab") == [["1", "a"]]
    assert rows(tmp_path, "sep=;\r\nid;q\r\n1;a,b\r\n") == [["1", "a,b"]]
    assert rows(tmp_path / "x.tsv", "id\tq,r\n1\ta\n") == [["1", "a"]]
    assert rows(tmp_path, '"q;r"\na;b\n') == [["a;b"]]
    assert "input.csv.delimiter" in refused(tmp_path, "id;q|r\n1;2|3\n")


def test_quotes_may_be_others_or_none(tmp_path):
    assert rows(tmp_path, "id,q\n1,'it''s, so'\n", quote="'") == [["1", "it's, so"]]
    assert rows(tmp_path / "x.tsv", 'id\tq\n1\t"open\n2\tb" c\n', quote="none") == [["1", '"open'], ["2", 'b" c']]
    assert "input.csv.quote: none" in refused(tmp_path / "x.tsv", 'id\tq\n1\t"open\n2\tb c\n')


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_like_and_blank_ones_are_none(tmp_path, end):
    content = end.join(["", "id,q", "", "1,a", "   ", '2,"b', 'c"', "", ""])
    assert rows(tmp_path, content) == [["1", "a"], ["2", f"b{end}c"]]


def test_line_ends_of_another_kind_within_a_field_end_no_row(tmp_path):
    assert "line 2: " in refused(tmp_path, "id,q\n1,a\rb\n2,c\n")
    assert rows(tmp_path, 'id,q\n1,"a\rb"\n2,c\n') == [["1", "a\rb"], ["2", "c"]]
    assert rows(tmp_path, 'id,q\r1,"a\nb"\r') == [["1", "a\nb"]]


def test_rows_that_are_too_long_or_too_short_cost_themselves(tmp_path):
    found = read(tmp_path, "id,q,\n1,a,\n2,b\n3,c,d,e\n4,f,\n\n")
    assert [record.error for record in found] == [
        "", "the line has 2 fields, the header 3", "the line has 4 fields, the header 3", "",
    ]  # fmt: skip


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    assert "'q' twice" in refused(tmp_path, "id,q,q\n1,a,b\n")
    assert rows(tmp_path, "id,q,,\n1,a,,\n") == [["1", "a", ""]], "columns without a name are nobody's"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_told_by_their_mark(tmp_path, encoding):
    content = ("\ufeff" if encoding.endswith(("le", "be")) else "") + "id\tq\n1\tgrüße ☃\n"
    if encoding == "utf-32":
        assert "UTF-32" in refused(tmp_path, content.encode(encoding))
    else:
        assert rows(tmp_path, content.encode(encoding)) == [["1", "grüße ☃"]]


def test_encodings_that_cannot_be_told_are_refused_or_the_rows_own_error(tmp_path):
    assert "UTF-16" in refused(tmp_path, "id,q\n1,a\n".encode("utf-16-le"))
    assert "damaged UTF-16" in refused(tmp_path, "id,q\n1,a\n".encode("utf-16")[:-1])
    found = read(tmp_path, "id,q\n1,caf\xe9\n2,b\n".encode("latin-1"))
    assert "UTF-8" in found[0].error and not found[1].error


def test_zeros_are_characters_like_others(tmp_path):
    assert rows(tmp_path, "id,q\n1,a\0b\n") == [["1", "a\0b"]]
    assert [record.error for record in read(tmp_path, "id,q\n1,a\n" + "\0" * 50)][1:] == [
        "the line has 1 fields, the header 2"
    ]


def test_packed_files_are_told_by_their_content(tmp_path):
    packed = gzip.compress(b"id,q\n1,a\n") + gzip.compress(b"2,b\n")
    for name in ("x.csv", "x.csv.gz", "x.csv.zst"):
        assert rows(tmp_path / name, packed) == [["1", "a"], ["2", "b"]]
    assert "Truncated" in refused(tmp_path / "x.csv.gz", packed[:-3])
    assert "not packed with gzip" in refused(tmp_path / "x.csv.gz", b"id,q\n1,a\n")
    assert "Parquet" in refused(tmp_path / "x.csv", b"PAR1abcd")


TEXTS = st.text(st.sampled_from("ab ,;\t|\"'\\\n\r\0ü☃=") | st.characters(exclude_categories=["Cs"]), max_size=6)
TABLES = st.lists(
    st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda row: any(v.strip() for v in row)), min_size=1, max_size=5
)


@QUICK
@example(table=[("a\rb", "c", "d")], way={"lineterminator": "\n"})
@given(
    table=TABLES,
    way=st.fixed_dictionaries({
        "delimiter": st.sampled_from(",;\t|"), "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]), "quotechar": st.sampled_from("\"'"),
        "escapechar": st.sampled_from([None, "\\"]),
    }),
)  # fmt: skip
def test_what_csv_writes_is_read_back_equal_or_refused(tmp_path, table, way):
    """`escapechar`: quotes are written as a backslash and a quote, as databases do.

    Before Python 3.13 the writer leaves half of a line break at a row's end without quotes: no reader tells it from the row's end.
    """
    assume(not any(row[-1].endswith(("\r", "\n")) for row in table))
    out = io.StringIO()
    writer = csv.writer(out, doublequote=way.get("escapechar") is None, **way)
    writer.writerows([("id", "q", "n"), *table])
    options = {"quote": way.get("quotechar", '"'), "escape": "backslash" if way.get("escapechar") else "doubled"}
    try:
        found = read(tmp_path, out.getvalue(), **options)
    except InputError as error:
        why = str(error)
    else:
        assert [tuple(record.columns.values()) for record in found] == table
        return
    assert "\n" not in why and re.search(r": line \d+: ", why)


@QUICK
@given(table=TABLES, place=st.integers(0, 10**6), put=st.sampled_from(["", '"', '""', ",", "\n", "\\", "\r", "\0"]))
def test_a_character_lost_or_added_loses_no_row_in_silence(tmp_path, table, place, put):
    """One character of a good file replaced: every row is there or the file is refused; a row's text may have changed."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("id", "q", "n"), *table])
    good = out.getvalue()
    start = len('"id","q","n"\n')
    place = start + place % (len(good) - start)
    try:
        found = read(tmp_path, good[:place] + put + good[place + 1 :])
    except InputError:
        return
    lost = len(table) - len(found)
    ends_a_row = good[place] == "\n" and good[place - 1] == '"'
    assert lost <= 0 or (ends_a_row and lost == 1 and any(record.error for record in found))


def test_the_options_are_checked_at_the_border():
    assert CsvSpec(delimiter="\\t").delimiter == "\t" == CsvSpec(delimiter="tab").delimiter
    job = {"input": {"path": "p", "prompt": "q"}, "output": "o", "router": "random", "policy": {"strong_share": 0.5}}
    job |= {"models": {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}, "weak": "a", "strong": "b"}
    for wrong, says in (
        ({"delimiter": "::"}, "one character"), ({"quote": ",", "delimiter": ","}, "two characters"),
        ({"quote": "\n"}, "one character"),
        ({"escape": "\\"}, "escape"), ({"max_field_lines": 0}, "max_field_lines"), ({"sep": ";"}, "sep"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=says) as caught:
            parse_spec({**job, "input": {**job["input"], "csv": wrong}})
        assert "input.csv" in str(caught.value) and "\n" not in str(caught.value)
