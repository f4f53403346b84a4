"""The form of a CSV file, as the option `csv` gives it."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runback.errors import ConfigError


@dataclass(frozen=True)
class CsvFormat:
    """The form of a CSV file.

    Attributes:
        delimiter: between cells, one character.
        quote: around cells, one character; empty for files without quotes.
        decimal: between whole part and fraction of a number, one character.
        encoding: of the text, a name that Python knows.
        null_values: texts that mean a missing value, in addition to those of pandas.
    """

    delimiter: str = ","
    quote: str = '"'
    decimal: str = "."
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ()

    @classmethod
    def from_option(cls, given: Mapping[str, Any]) -> CsvFormat:
        """The form that the option `csv` gives.

        Raises:
            ConfigError: an unknown entry, or an invalid value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"option csv: unknown entry {name!r}; the entries are {', '.join(known)}"
                )
        values = dict(given)
        if "null_values" in values:
            values["null_values"] = _texts(values["null_values"])
        form = cls(**values)
        form._check()
        return form

    @property
    def is_utf8(self) -> bool:
        """Whether the text is UTF-8, of which a byte-order mark is skipped."""
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    def _check(self) -> None:
        for name in ("delimiter", "quote", "decimal"):
            value = getattr(self, name)
            is_one = isinstance(value, str) and len(value) == 1 and value.isascii()
            if not (is_one or (name == "quote" and value == "")) or value in ("\r", "\n"):
                raise ConfigError(f"option csv: {name} {value!r} is not one ASCII character")
        if len({self.delimiter, self.quote, self.decimal}) < 3:
            raise ConfigError("option csv: delimiter, quote and decimal must differ")
        try:
            codecs.lookup(self.encoding)
        except (LookupError, TypeError, ValueError):
            raise ConfigError(
                f"option csv: encoding {self.encoding!r} is not known; utf-8 and latin-1 are"
            ) from None


PLAIN = CsvFormat()


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"option csv: null_values {value!r} is not a list of texts")
    return tuple(value)
