"""Which acceptance profiles belong to the models of a question."""

from __future__ import annotations

from pathlib import Path

from specplan.acceptance_profiles import AcceptanceProfile, acceptance_profiles, read_acceptance
from specplan.errors import InputError
from specplan.models.known import bundled_name
from specplan.models.medusa import ACCEPTANCE_NAME
from specplan.plan import HeadFiles, ModelInput, drafter_of
from specplan.profiles import normalize


def matching_profiles(
    target: ModelInput, draft: ModelInput | None = None, folders: tuple[Path, ...] = ()
) -> tuple[AcceptanceProfile, ...]:
    """The profiles of this target for all drafters that need no other model, and for this draft model.

    A profile with a ``target_sha256`` (``draft_sha256``) belongs to the files with that ``config_sha256`` only, others
    to the bundled model that they name.

    Args:
        target: the verified model.
        draft: the draft model, None without one.
        folders: of users' own profiles, which come before bundled ones.

    Raises:
        InputError: a file in one of the folders that is not a profile.
    """
    target_name = bundled_name(target)
    draft_name = bundled_name(draft) if draft is not None else None
    return tuple(
        profile
        for profile in acceptance_profiles(folders)
        if _is_of(target, target_name, profile.target, profile.target_sha256)
        and (profile.draft is None or _is_of(draft, draft_name, profile.draft, profile.draft_sha256))
    )


def heads_profile(heads: HeadFiles | None, target: ModelInput) -> tuple[AcceptanceProfile, ...]:
    """What was measured of the very heads that are given, where they bring it; none for another target's files.

    Raises:
        InputError: a file beside the heads that is not a profile of them.
    """
    path = Path(heads.reference) / ACCEPTANCE_NAME if heads is not None else None
    if heads is None or path is None or not path.is_file():
        return ()
    profile, drafter = read_acceptance(path), drafter_of(heads)
    if profile.drafter != drafter:
        raise InputError(f"{path}: is a profile of drafter {profile.drafter}, expected {drafter}")
    return (profile,) if _is_of(target, bundled_name(target), profile.target, profile.target_sha256) else ()


def _is_of(model: ModelInput | None, known: str | None, name: str, sha256: str | None) -> bool:
    """Whether a profile that names a model speaks of this one."""
    if model is None:
        return False
    return model.config_sha256 == sha256 if sha256 else known is not None and normalize(known) == normalize(name)
