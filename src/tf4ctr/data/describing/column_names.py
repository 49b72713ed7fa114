"""What the name of a raw column says about it: the hints that `describe.py` starts from."""

import re

# columns that say what the user did; the most usual labels come first
OUTCOMES = (
    *("label", "click", "clicked", "clk", "isclick", "ctr", "target", "y", "response", "outcome", "engaged"),
    *("conversion", "converted", "convert", "cvr", "attributed", "purchase", "purchased", "buy", "bought", "paid"),
    *("install", "installed", "download", "downloaded", "subscribed", "churn", "income", "like", "liked"),
    *("favorite", "follow", "share", "forward", "comment", "hate", "finish", "longview"),
)
RATINGS = ("rating", "ratings", "stars", "star", "overall", "reviewscore")
USERS = (
    *("user", "userid", "uid", "username", "userhash", "usercode", "msno", "member", "memberid", "customerid"),
    *("visitorid", "viewerid", "accountid", "buyerid", "readerid", "clientid", "openid"),
)
# columns with a value of its own in each row
KEYS = (
    *("id", "rowid", "row", "index", "idx", "rownumber", "uuid", "guid", "requestid", "impressionid", "impid"),
    *("logid", "traceid", "eventid", "searchid", "sampleid", "recordid", "transactionid", "unnamed"),
)
TIMES = ("time", "timestamp", "ts", "stamp", "date", "datetime", "day", "hour", "dt", "created", "moment")
# words of moments that are long before or after the row
EARLIER = (
    *("birth", "birthday", "born", "dob", "registration", "registered", "reg", "signup", "joined", "init"),
    *("expire", "expires", "expiration", "expiry", "release", "released", "publish", "published", "publication"),
)
IDS = (
    *("id", "ids", "uid", "pid", "code", "codes", "zip", "zipcode", "postcode", "cat", "cate", "category"),
    *("categorical", "type", "class", "brand", "level", "segment", "segid", "group", "flag", "status", "gender"),
    *("sex", "city", "country", "state", "region", "province", "district", "lang", "language", "device", "model"),
    *("userid", "itemid", "adid", "adgroupid", "goodsid", "productid", "skuid", "videoid", "songid", "movieid"),
    *("os", "browser", "version", "channel", "source", "site", "domain", "app", "campaign", "creative"),
    *("advertiser", "ad", "item", "sku", "product", "shop", "store", "seller", "user", "customer", "genre"),
    *("tag", "tags", "kind", "color", "hash", "key", "index", "idx", "ip", "carrier", "network", "slot", "phone"),
    *("position", "pos", "weekday", "month", "isp", "mac", "imei", "occupation", "education", "race"),
)
NUMBERS = (
    *("price", "prices", "amount", "amt", "cost", "costs", "count", "counts", "cnt", "num", "nums", "numerical"),
    *("numeric", "qty", "quantity", "rate", "ratio", "ctr", "cvr", "percent", "pct", "share", "score", "scores"),
    *("rating", "avg", "mean", "median", "sum", "total", "min", "max", "std", "age", "ages", "income", "salary"),
    *("wage", "balance", "revenue", "sales", "gmv", "bid", "budget", "discount", "duration", "length", "size"),
    *("width", "height", "weight", "distance", "days", "hours", "minutes", "seconds", "secs", "ms", "views"),
    *("visits", "clicks", "impressions", "likes", "followers", "gains", "losses", "lat", "latitude", "lon", "lng"),
    *("longitude", "temperature", "probability", "frequency", "dwell", "elapsed", "recency", "stock", "volume"),
)


def words(name: str) -> list[str]:
    """The words of a name in lower case, without digits: `UserID_2` -> user, id."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+", name)
    return [part.lower() for part in parts]


def bare(name: str) -> str:
    """The name in lower case, without separators and without is, has, flag or label around it.

    `is_click`, `Click` and `click_label` are all `click`.
    """
    parts = words(name)
    if len(parts) > 1 and parts[0] in ("is", "has"):
        parts = parts[1:]
    if len(parts) > 1 and parts[-1] in ("flag", "label"):
        parts = parts[:-1]
    return "".join(parts)


def is_outcome(name: str) -> bool:
    """Whether a column of two values with this name is a label."""
    return bare(name) in OUTCOMES


def is_label(name: str) -> bool:
    """Whether the name is that of a label: an outcome or a rating."""
    return is_outcome(name) or is_rating(name)


def outcome_rank(name: str) -> int:
    """Place of an outcome's name: 0 for the most usual label."""
    return OUTCOMES.index(bare(name))


def is_rating(name: str) -> bool:
    """Whether the name is that of a rating."""
    return bare(name) in RATINGS


def is_user(name: str) -> bool:
    """Whether the name is that of a user's id."""
    return "".join(words(name)) in USERS


def is_key(name: str) -> bool:
    """Whether the name is that of a row's own id."""
    return "".join(words(name)) in KEYS


def is_time(name: str) -> bool:
    """Whether a word of the name is about time."""
    return any(word in TIMES for word in words(name))


def is_earlier(name: str) -> bool:
    """Whether the name is that of a moment of a user or an item, such as birth or release."""
    return any(word in EARLIER for word in words(name))


def kind_word(name: str) -> tuple[str, bool] | None:
    """The word that says what whole numbers are, and whether it says number (else id).

    The last word says either, as in `price_level` (an id) and `item_price` (a number). A word
    before it only says number, as in `num_items`. None if no word says anything.
    """
    parts = words(name)
    if parts and parts[-1] in (*IDS, *USERS):
        return parts[-1], False
    return next(((word, True) for word in reversed(parts) if word in NUMBERS), None)


def family(name: str) -> str | None:
    """The part before a number at the end, which columns such as I1, I2, I3 share."""
    match = re.fullmatch(r"(.*?)\d+", name)
    return match[1] if match else None
