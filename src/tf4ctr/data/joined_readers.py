"""Raw layouts of several files: one has the rows, the others are joined to it."""

from pathlib import Path

import polars as pl

from tf4ctr.data.text_readers import SHORT, BadRow, cells, csv, not_matching
from tf4ctr.errors import InputError


def grouplens(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read MovieLens' ratings.dat joined with users.dat beside it.

    The label is 1 for a rating of 4 or 5, else 0.
    """
    ratings = pl.concat([cells(path, ("UserID", "MovieID", "Rating", "Timestamp")) for path in paths])
    users = cells(paths[0].with_name("users.dat"), ("UserID", "Gender", "Age", "Occupation", "Zip-code"))
    rating = pl.col("Rating").cast(pl.Int64, strict=False)
    label = pl.when(rating.is_between(1, 5)).then((rating >= 4).cast(pl.Int8).cast(pl.String)).alias("label")
    rows = ratings.join(users.drop("Zip-code"), on="UserID", how="left", maintain_order="left").select(label, pl.all())
    return rows.select(*columns, pl.any_horizontal(pl.col("Timestamp").is_null(), rating.is_null()).alias(SHORT))


def grouplens_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a rating."""
    return not_matching(path, r"^\d+::\d+::\d+::\d+$", "expected UserID::MovieID::Rating::Timestamp")


RATING = ("user", "item", "rating", "timestamp")  # the cells of u.data
FILM = ("item", "title", "release_date", "video_release_date", "url")  # of u.item, before the flags
GENRES = (  # what the flags of u.item mean
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def grouplens_100k(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read MovieLens 100K's u.data joined with u.user and u.item beside it.

    Columns: user, item, rating, timestamp; age, gender, occupation, zip of the user; title,
    release_date, year and genres of the film, the genres with | between them.

    Raises:
        InputError: a line of u.item has another number of cells.
    """
    ratings = pl.concat([cells(path, RATING, "\t") for path in paths])
    users = cells(paths[0].with_name("u.user"), ("user", "age", "gender", "occupation", "zip"), "|")
    rows = ratings.join(users, on="user", how="left", maintain_order="left")
    rows = rows.join(_films(paths[0].with_name("u.item")), on="item", how="left", maintain_order="left")
    return rows.select(*columns, pl.any_horizontal(pl.col(RATING).is_null()).alias(SHORT))


def grouplens_100k_bad_rows(path: Path, columns: list[str]) -> list[BadRow]:
    """Find the lines that are not a rating."""
    return not_matching(path, r"^\d+\t\d+\t\d+\t\d+$", "expected user, item, rating, timestamp with tabs between them")


def _films(path: Path) -> pl.LazyFrame:
    """The 1,682 lines of u.item. They are read at once: polars' scans cannot decode Latin-1."""
    films = []
    for number, line in enumerate(path.read_text("latin-1").split("\n"), 1):
        if not line.strip():
            continue
        values = line.rstrip("\r").split("|")
        if len(values) != len(FILM) + len(GENRES):
            raise InputError(
                f"{path}, line {number}: {len(values)} cells, expected {len(FILM) + len(GENRES)}: download it again"
            )
        genres = [genre for genre, flag in zip(GENRES, values[len(FILM) :], strict=True) if flag == "1"]
        films.append([value or None for value in (*values[: len(FILM)], "|".join(genres))])
    year = pl.col("release_date").str.extract(r"(\d{4})$").alias("year")
    return pl.LazyFrame(films, schema=dict.fromkeys((*FILM, "genres"), pl.String), orient="row").with_columns(year)


KKBOX_BESIDE = {  # file: (key, columns)
    "songs.csv": ("song_id", ["genre_ids", "artist_name", "language"]),
    "members.csv": ("msno", ["city", "gender", "registered_via", "bd"]),
    "song_extra_info.csv": ("song_id", ["isrc"]),
}


def kkbox(paths: list[Path], columns: list[str]) -> pl.LazyFrame:
    """Read KKBox's train.csv joined with songs.csv, members.csv and song_extra_info.csv beside it.

    The label is the column `target`.
    """
    own = ["target", "msno", "song_id", "source_system_tab", "source_screen_name", "source_type"]
    rows = csv(paths, own).rename({"target": "label"})
    for name, (key, values) in KKBOX_BESIDE.items():
        beside = csv([paths[0].with_name(name)], [key, *values]).drop(SHORT)
        beside = beside.unique(key, keep="first", maintain_order=True)
        rows = rows.join(beside, on=key, how="left", maintain_order="left")
    return rows.select(*columns, SHORT)
