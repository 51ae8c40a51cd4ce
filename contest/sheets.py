"""Tables that are no text, Parquet files and Excel sheets, as rows of text.

    for name, rows, unread in sheets_of(root, "labels.xlsx"):  # rows[0]: the names of the columns
        ...

Each kind needs a package of requirements-extras.txt.
"""
import importlib
import importlib.util
import io
import itertools
import warnings
import zipfile

from contest.decoding import read_bytes
from contest.files import SHEET_SUFFIXES, suffix_of
from utils import first_line

LARGEST_SHEET_BYTES = 2**30      # unpacked
MOST_CELLS = 50_000_000


def is_sheet(path):
    """Whether a path, or a table's `labels.xlsx#train`, is of a Parquet file or an Excel file."""
    return suffix_of(path) in SHEET_SUFFIXES or bool(title_of(path))


def title_of(path):
    """The sheet's title of a table's path, `train` of `labels.xlsx#train`, '' without."""
    lower = path.lower()
    ends = [lower.find(f"{suffix}#") + len(suffix) for suffix in SHEET_SUFFIXES
            if f"{suffix}#" in lower]
    return path[min(ends) + 1:] if ends else ""


def how_to_read(path):
    """What to do so that a file that is not read is."""
    package = SHEET_SUFFIXES.get(suffix_of(path))
    if package and importlib.util.find_spec(package) is None:
        return f"pip install {package}, or save it as a csv"
    return "save it as a csv"


def sheets_of(root, path):
    """[(name, rows of texts, names of columns that are not read)] of a Parquet file or an Excel
    file, the header first.

    A file of several sheets gives each a name, `labels.xlsx#train`. ValueError with a short reason
    if it cannot be read or its package is missing.
    """
    package = SHEET_SUFFIXES[suffix_of(path)]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed")
    data = read_bytes(root / path)
    try:
        return [(path + name, as_text(rows), unread)
                for name, rows, unread in READERS[package](data)]
    except MemoryError:
        raise
    except Exception as error:      # both packages raise what their parts raise
        raise ValueError(first_line(error)) from None


def rows_of_parquet(data):
    """[('', rows, unread)]: columns of structures and of bytes that are no text, as images, are
    left unread."""
    parquet = importlib.import_module("pyarrow.parquet")
    types = importlib.import_module("pyarrow.types")
    file = parquet.ParquetFile(io.BytesIO(data))
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_dictionary)

    def is_bytes(kind):
        return (types.is_binary(kind) or types.is_large_binary(kind)
                or types.is_fixed_size_binary(kind))

    def is_text(field):
        kind = field.type
        if is_bytes(kind):
            return are_utf8(file, field.name)
        inner = kind.value_type if any(is_one(kind) for is_one in lists) else kind
        return not types.is_nested(inner) and not is_bytes(inner)

    names = [field.name for field in file.schema_arrow if is_text(field)]
    unread = [name for name in file.schema_arrow.names if name not in names]
    if file.metadata.num_rows * len(names) > MOST_CELLS:
        raise ValueError(f"it has over {MOST_CELLS} cells")
    table = file.read(columns=names)
    columns = [column.cast("string") if types.is_float32(column.type) or is_bytes(column.type)
               else column for column in table.columns]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [("", [tuple(table.column_names), *rows] if columns else [], unread)]


def are_utf8(file, name):
    """Whether all bytes in a column of a Parquet file are text."""
    try:
        for batch in file.iter_batches(batch_size=256, columns=[name]):
            for cell in batch.column(0).to_pylist():
                (cell or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def rows_of_excel(data):
    """[(#sheet, or '' for a single one; rows; [])] of the sheets with cells."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(part.file_size for part in packed.infolist()) > LARGEST_SHEET_BYTES:
            raise ValueError("it unpacks to over 1 GiB")
    openpyxl = importlib.import_module("openpyxl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")      # of colours and rules that say nothing here
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        found = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()      # some programs write wrong ones
            rows = [row for row in sheet.iter_rows(values_only=True) if any(
                cell is not None for cell in row)]
            if rows:
                found.append((sheet.title, rows))
    return [(f"#{title}" if len(found) > 1 else "", rows, []) for title, rows in found]


READERS = {"pyarrow": rows_of_parquet, "openpyxl": rows_of_excel}


def as_text(rows):
    """Cells as a csv file would hold them. Two or more columns of True and False are 0 and 1."""
    n_flags = sum(all(isinstance(cell, bool) for cell in column)
                  for column in itertools.zip_longest(*rows[1:]))
    return [[text_of(cell, n_flags > 1) for cell in row] for row in rows]


def text_of(cell, are_flags):
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell)) if are_flags else str(cell)
    if isinstance(cell, list):
        return "|".join(text_of(part, False) for part in cell)
    return str(cell).strip()
