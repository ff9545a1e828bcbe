"""Files by path or URL: reading, atomic writing, caching, downloading, uploading."""
