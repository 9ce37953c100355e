"""A memory of computed values that forgets the one unused for longest when its budget is full."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class BoundedCache:
    """Values with a `size_bytes`, kept up to `budget_bytes` in all. Not for use by several threads at once."""

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value under `key`, computed now if it is not there. A value larger than the budget is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = compute()
        if value.size_bytes <= self.budget_bytes:
            self._values[key] = value
            self.used_bytes += value.size_bytes
            while self.used_bytes > self.budget_bytes:
                self.used_bytes -= self._values.popitem(last=False)[1].size_bytes
        return value
