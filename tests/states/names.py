"""Names of files that git, a shell or a terminal may stumble over."""

from __future__ import annotations

from tests.states.registry import EVERYWHERE, HERE, NO_PLAIN, Loss, state
from tests.support.repositories import lines
from tests.support.workspace import Pathish, Workspace, to_bytes


def _names(ws: Workspace, *names: Pathish) -> None:
    """Each name untracked in the root, and edited, deleted, renamed, staged and executable in a directory each."""
    raw = [to_bytes(name) for name in names]
    for name in raw:
        for role in (b"edited", b"deleted", b"dropped", b"old"):
            ws.write(role + b"/" + name, role + b" " + name[:20] + b"\n" + to_bytes(lines()))
    ws.commit("names")
    ws.mkdir("new")
    for name in raw:
        ws.append(b"edited/" + name)
        ws.remove(b"deleted/" + name)
        ws.git("--literal-pathspecs", "rm", "-q", "--", b"dropped/" + name)
        ws.git("--literal-pathspecs", "mv", "--", b"old/" + name, b"new/" + name)
        ws.write(b"staged/" + name, b"staged " + name[:20] + b"\n", 0o755)
        ws.add(b"staged/" + name)
        ws.write(name, b"untracked " + name[:20] + b"\n")
        ws.write(name + b".d/inner" if len(name) < 200 else b"d/" + name, b"in a directory\n")
    for name in raw:
        ws.expect(b" M edited/" + name, b" D deleted/" + name, b"D  dropped/" + name, b"A  staged/" + name)
        ws.expect(b"?? " + name)


@state(quick=EVERYWHERE)
def names_with_quotes_and_newlines(ws: Workspace) -> None:
    _names(ws, "new\nline", 'quo"te', "apos'trophe", "back\\slash", "tab\there", "cr\rhere", "bell\a", "\x7f", "\x01")


@state(quick=EVERYWHERE)
def names_that_are_not_utf8(ws: Workspace) -> None:
    _names(ws, b"caf\xe9", b"\xff\xfe", b"half \xe6\xbc", b"\x80", b"sur\xed\xb2\x80rogate")


@state()
def names_with_dashes(ws: Workspace) -> None:
    _names(ws, "-", "--", "-rf", "--force", "--help", "-z")


@state()
def names_with_pathspec_magic(ws: Workspace) -> None:
    _names(ws, ":(top)x", ":!x", ":^x", "*", "?", "[a]", ":", "**", ":(exclude)*", "@", "@{0}", "HEAD~1", "!bang")


@state()
def names_with_spaces_and_hashes(ws: Workspace) -> None:
    odd = ("~", "%s%n", "a;b&c|d", "$HOME", "$(touch pwned)")
    _names(ws, " leading", "trailing ", "  ", "#hash", "dot.", "a -> b", *odd)


@state()
def names_in_unicode_forms(ws: Workspace) -> None:
    _names(ws, "u\u0308ber", "\u00fcber", "\u202ertl", "zero\u200bwidth", "\U0001f525", "line\u2028sep", "\ufeffbom")


@state()
def names_that_git_uses_itself(ws: Workspace) -> None:
    _names(ws, "HEAD", "FETCH_HEAD", "index", "refs", "objects", "config", "agent", "master", "gitstate", "git", "tmp")


@state()
def names_that_differ_in_case(ws: Workspace) -> None:
    _names(ws, "Readme", "README", "readme", "A.TXT")


@state()
def names_of_255_bytes(ws: Workspace) -> None:
    _names(ws, "x" * 255, "\u00fc" * 127, "y" * 250 + "\n")


@state()
def deep_nesting(ws: Workspace) -> None:
    deep = "/".join(["d" * 40] * 40)
    ws.write(f"{deep}/tracked.txt")
    ws.commit("deep")
    ws.append(f"{deep}/tracked.txt")
    ws.write(f"{deep}/staged.txt")
    ws.add(f"{deep}/staged.txt")
    ws.write(f"{deep}/untracked.txt")
    ws.write("/".join(["e"] * 500) + "/untracked.txt")
    ws.expect(f" M {deep}/tracked.txt", f"A  {deep}/staged.txt", f"?? {deep}/untracked.txt")


@state(
    losses=NO_PLAIN,
    may_leave_out=("git~1", "sub/.GIT", ".git \u200c", "sub/.g\u200cit", "sub/.git "),
    status_says_more=True,
    save_exits=(0, 4),
)
def names_that_git_refuses(ws: Workspace) -> None:
    """``git add`` fails on these; all else must be saved nevertheless."""
    ws.write("git~1", "refused on NTFS\n")
    ws.write("sub/.GIT", "refused everywhere\n")
    ws.write("sub/ok.txt")
    ws.append("a.txt")
    ws.fails("add", "git~1")
    ws.fails("add", "sub/.GIT")
    ws.expect(" M a.txt")


@state(losses=NO_PLAIN, status_says_more=True, quick=HERE | {Loss.CLONED})
def symlinks_that_git_refuses(ws: Workspace) -> None:
    """No tree that git checks out holds a symlink of this name."""
    ws.symlink("a.txt", ".gitmodules")
    ws.symlink("nowhere", "fresh/.GitModules")
    ws.append("a.txt")
    ws.fails("add", ".gitmodules")
    ws.expect(" M a.txt", "?? .gitmodules", "?? fresh/.GitModules")


@state(losses=NO_PLAIN, status_says_more=True, quick=HERE | {Loss.CLONED})
def symlink_that_git_refuses_instead_of_a_file(ws: Workspace) -> None:
    ws.write(".gitmodules", "# no submodule\n")
    ws.commit("modules")
    ws.remove(".gitmodules")
    ws.symlink("a.txt", ".gitmodules")
    ws.expect(" T .gitmodules")


@state(losses=NO_PLAIN, may_leave_out=("sub/.git",), status_says_more=True, save_exits=(0, 4))
def a_git_directory_that_is_no_repository(ws: Workspace) -> None:
    ws.mkdir("sub/.git")
    ws.write("sub/file.txt")
    ws.write("other/.git", "no gitdir here\n")
    ws.append("a.txt")
    ws.remove("other")
    ws.expect(" M a.txt")
