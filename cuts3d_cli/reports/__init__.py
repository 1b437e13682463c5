"""`cuts3d report`: a gallery of what shards hold, one page that a browser opens from disk.

`gallery` reads the shards and writes the folder. `drawing` makes the pictures of one photo, in worker processes.
`records` is what the page knows of a photo, `page` turns it into HTML and JavaScript data; neither reads nor writes a
file. The page's own style and script lie in `assets`.
"""
