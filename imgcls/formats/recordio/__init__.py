"""RecordIO files (`.rec`), the image records in them and their index (`.idx`): read, write, find damage.

A `.rec` is a plain row of parts, all integers little-endian, with no header, count or checksum:

    u32 magic 0xCED7230A | u32 word: 3 bits kind, 29 bits length n | n bytes | zeros up to a multiple of 4

Kind 0 is an unsplit record. 1, 2 and 3 are the first, middle and last part of a record whose payload has the
magic at a multiple of 4: writing leaves those 4 bytes out, reading puts them back between the parts. So every
aligned magic is a head, and a file is searched at the speed of memory, without an index. An image record is
an `ImageHeader`, `flag` further labels (f32) and the bytes of a JPEG or PNG. An index has a line `key TAB
offset` per record. The sources are dmlc-core's recordio.h and MXNet's image_recordio.h and recordio.py.

    framing       parts of a record, split and joined     reader      RecordReader: by index, by key, in order
    image_record  header and labels in front of an image  writer      RecordWriter, and Block for many at once
    scan          find the records of a file, and damage  files       which files a user's pattern means
    record_file   a file's bytes, read by position        names_cache  class names of packs, on disk
    index         the lines of an `.idx`                  scan_cache  what was found in a large file, on disk

The packer, the sources of `data/` and the tools use it. It needs numpy only, keeps no more of a file in
memory than the offsets, and never trusts a number from a file before comparing it with the file's size.
"""

# The names that others build on; the files below are free to move them among each other.
from imgcls.formats.recordio.files import expand, part_range
from imgcls.formats.recordio.framing import MAGIC, MAX_PAYLOAD_BYTES, write_record
from imgcls.formats.recordio.image_record import HEADER_DTYPE, ImageHeader, pack, unpack
from imgcls.formats.recordio.index import Index, index_path
from imgcls.formats.recordio.reader import Record, RecordReader
from imgcls.formats.recordio.writer import Block, RecordWriter

__all__ = [
    "HEADER_DTYPE", "MAGIC", "MAX_PAYLOAD_BYTES", "Block", "ImageHeader", "Index", "Record", "RecordReader",
    "RecordWriter", "expand", "index_path", "pack", "part_range", "unpack", "write_record",
]
