#!/usr/bin/env python3
"""Follows every link of the book as mdbook has built it: to a file, and to an anchor in it.

    .ci/check_book.py [FOLDER]            FOLDER is target/book without it

Exits with 1 and names each link that leads nowhere. Links out of the book are not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "target/book").resolve()
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    count, broken = 0, []
    for path, page in pages.items():
        # The page for addresses that are not there is served at any depth, from the root of a site.
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            leads = target.exists() and (target not in pages or unquote(parts.fragment) in pages[target].anchors)
            if not leads:
                broken.append(f"{path.relative_to(folder)}: {link} leads nowhere")
    for line in broken:
        print(line)
    print(f"{len(pages)} pages, {count} links, {len(broken)} broken")
    sys.exit(1 if broken or not count else 0)


if __name__ == "__main__":
    main()
