"""Images in tar and zip files, read in place without unpacking: also a tar of tars, and a folder of tars.

    member   the description of a member: its place and size in the archive; which names are safe
    tar      members of a tar and of the tars in it
    zips     members of a zip
    index    all members of one or many archives in an SQLite file: sorted walk, look-up by path
    read     the content of a member

The packer, the sources of `data/` and the tools use them. Nothing is extracted. An archive may come from
anybody: every number is compared with the file before memory is taken or a byte is read. What cannot be an
image (links, devices, names that lead out of the archive) is refused by name, and the other members are read
all the same; an archive that is cut or damaged is an error, since its last classes would be missing in
silence. An inner `X.tar` counts as a folder X in the same place, as
`for i in *.tar; do mkdir X; tar -xf X.tar -C X; done` would make it.
"""

from imgcls.formats.archives.index import (
    ArchiveIndex,
    find_archives,
    fingerprint_of,
    open_index,
    split_root,
)
from imgcls.formats.archives.member import Member, is_archive_name
from imgcls.formats.archives.read import (
    MemberReader,
    RemoteMemberReader,
    iter_members,
    iter_stream,
    read_member,
)

__all__ = [
    "ArchiveIndex", "Member", "MemberReader", "RemoteMemberReader", "find_archives", "fingerprint_of",
    "is_archive_name",
    "iter_members", "iter_stream", "open_index", "read_member", "split_root",
]
