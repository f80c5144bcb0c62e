"""A learner's arguments as attributes that may be assigned later, and are then honoured."""

from __future__ import annotations

from typing import Any


class Settings:
    """What a learner was made with: checked, and where it is changed later, compiled anew.

    A compiled function holds the values that it was traced with.
    """

    settings: frozenset[str] = frozenset()
    """Names of the attributes."""
    fixed: frozenset[str] = frozenset()
    """Those that only a new learner can have different."""
    revision = -1
    """Another number after each change, for what else compiles something of the learner's."""
    _is_set_up = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; of a setting, checks the value and forgets what was compiled.

        Raises:
          ValueError: the value is out of range or cannot be changed; the former one stays.
        """
        if name in self.fixed and self._is_set_up:
            raise ValueError(f"`{name}` cannot be changed later; make another learner.")
        if name not in self.settings:
            super().__setattr__(name, value)
            return
        before = dict(vars(self))
        try:
            super().__setattr__(name, self._checked(name, value))
            if self._is_set_up:
                self._set_up()
        except ValueError:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _checked(self, name: str, value: Any) -> Any:
        """The value of a setting in its own form.

        Raises:
          ValueError: it is out of range.
        """
        raise NotImplementedError

    def _set_up(self) -> None:
        """Checks what concerns several settings, and makes the compiled functions."""
        super().__setattr__("_is_set_up", True)
        super().__setattr__("revision", self.revision + 1)
