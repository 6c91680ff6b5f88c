"""Whether a text is a whole document of our schema."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError

_MOST_TOLD = 3


def parsed(text: str) -> Any:
    """JSON as the standard has it: NaN and infinity are none.

    Raises:
        ValueError: it is not.
    """
    return json.loads(text, parse_constant=_no_number)


def require_schema(text: str) -> None:
    """Refuses a document that breaks the schema.

    Raises:
        ValueError: with the first few problems, each by its path.
    """
    from slimgpt_bench.results.schema.kinds import adapter

    try:
        adapter().validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        told = [f"{'.'.join(map(str, x['loc'][1:]))}: {x['msg']}" for x in found[:_MOST_TOLD]]
        more = len(found) - len(told)
        raise ValueError("; ".join(told) + (f"; and {more} more" if more else "")) from None


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
