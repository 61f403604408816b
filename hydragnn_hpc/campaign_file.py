"""Campaign files: read from YAML, with overrides from the command line, and validated."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hydragnn_hpc import yaml_files
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError, refuse_control_characters
from hydragnn_hpc.sections import Start
from hydragnn_hpc.validation import one_line
from hydragnn_hpc.yaml_files import YAML_ERRORS


def load_campaign(path: Path, overrides: list[str] | None = None) -> Campaign:
    """Read a campaign file, apply ``key.key=value`` overrides, validate.

    Paths of the data set and of campaigns that members start from are relative to the file, and absolute in the result.

    Raises
    ------
    UserError
        If the file cannot be read or a value does not fit; the error names the known key nearest to an unknown one.
    """
    try:
        content = yaml_files.read(path)
    except FileNotFoundError as error:
        raise UserError(f"no such campaign file: {path}") from error
    except (OSError, *YAML_ERRORS) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read campaign file {path}: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"campaign file {path} holds no settings; start from jobs/campaigns/quickstart.yaml")
    earlier: dict[str, str] = {}
    for override in overrides or []:
        key = _apply(content, override)
        for other, lost in earlier.items():
            if f"{other}.".startswith(f"{key}.") and _changes(content, lost):
                raise UserError(f"--set {lost} would be lost by --set {override}; remove one of the two")
        earlier[key] = override
    campaign = parse_campaign(content, str(path))
    dataset = _absolute(path, campaign.dataset, "dataset", "data set")
    variants = tuple(v.model_copy(update={"start": _with_absolute_folder(path, v.start)}) for v in campaign.variants)
    return campaign.model_copy(
        update={"dataset": dataset, "start": _with_absolute_folder(path, campaign.start), "variants": variants}
    )


def _with_absolute_folder(path: Path, start: Start | None) -> Start | None:
    if start is None:
        return None
    return start.model_copy(update={"folder": _absolute(path, start.folder, "start.from", "finished campaign")})


def _absolute(path: Path, given: str, key: str, what: str) -> str:
    try:
        absolute = (path.parent / Path(given).expanduser()).resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: {key}={given!r}: {error}; give the path of a {what}") from error
    refuse_control_characters(str(absolute), f"{path}: the {what}'s path")
    return str(absolute)


def parse_campaign(content: dict[str, Any], where: str) -> Campaign:
    """Validate plain data into a :class:`Campaign`; ``where`` is named in errors.

    Raises
    ------
    UserError
        On the first value that does not fit.
    """
    try:
        return Campaign.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error, Campaign)}") from error


def _apply(content: dict[str, Any], override: str) -> str:
    """Apply ``key.key=value``; return the key."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip("."):
        raise UserError(f"--set {override}: expected key=value, for instance training.epochs=3")
    try:
        value = yaml_files.parse(text)
    except YAML_ERRORS as error:
        raise UserError(f"--set {override}: the value is not YAML: {error}") from error
    # YAML reads 1e-3 (no dot) as text; a user of --set means the number, unless it is quoted.
    _set(content, key.split("."), _number(value) if value == text.strip() else value, override)
    return key


def _changes(content: dict[str, Any], override: str) -> bool:
    """Whether the override would change the content."""
    other = copy.deepcopy(content)
    _apply(other, override)
    return bool(_with_numbers(other) != _with_numbers(content))


def _with_numbers(value: Any) -> Any:
    """Return plain data in which text that is a number, such as 1e-3 in YAML, is one."""
    if isinstance(value, dict):
        return {key: _with_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner) for inner in value]
    return _number(value) if isinstance(value, str) else value


def _set(section: dict[str, Any], parts: list[str], value: Any, override: str) -> None:
    # Task names may contain dots.
    n = next((n for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in section), 1)
    key, rest = ".".join(parts[:n]), parts[n:]
    if not rest:
        section[key] = value
        return
    inner = section.get(key, {})
    if not isinstance(inner, dict):
        raise UserError(f"--set {override}: '{key}' is a single value, it has no '{'.'.join(rest)}' in it")
    section[key] = dict(inner)  # where YAML has an alias, other keys hold the same section
    _set(section[key], rest, value, override)


def _number(text: str) -> str | float:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
