"""The history as pages that open without a network: what they load is put beside them.

asv publish
python -m benchmarks.pages          needs npm, once
python -m http.server --directory .asv/html
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# the file a page asks for -> the npm package that has it, and where
FILES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}
SECONDS = 60  # that npm may take; without a network it would try for many minutes
ELSEWHERE = re.compile(r'(src|href)="https://[^"]*/([^"/]+)"(?: integrity="[^"]*")?[^>]*?(/?)>')


def copy_files(html: Path) -> None:
    """Put `FILES` into the folder vendor of the pages."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed; it has what the pages load")
    with tempfile.TemporaryDirectory() as folder:
        packages = sorted({package for package, _ in FILES.values()})
        options = ("--prefix", folder, "--no-save", "--ignore-scripts", "--no-audit", "--silent")
        try:
            subprocess.run([npm, "install", *options, *packages], check=True, timeout=SECONDS)
        except subprocess.SubprocessError as error:
            raise SystemExit(f"npm did not get {', '.join(packages)}: {error}") from error
        (html / "vendor").mkdir(exist_ok=True)
        for name, (package, path) in FILES.items():
            source = Path(folder, "node_modules", package.rpartition("@")[0], path)
            shutil.copyfile(source, html / "vendor" / name)


def point_at_them(page: str) -> str:
    """The page, with what it loads from elsewhere in the folder vendor."""

    def local(match: re.Match[str]) -> str:
        attribute, name, end = match.groups()
        if name not in FILES:
            raise SystemExit(f"the page loads {name}, of which nothing is known here")
        return f'{attribute}="vendor/{name}"{end}>'

    return ELSEWHERE.sub(local, page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("html", nargs="?", type=Path, default=Path(".asv/html"))
    html = parser.parse_args(arguments).html
    index = html / "index.html"
    if not index.exists():
        raise SystemExit(f"{html} has no pages; `asv publish` makes them")
    page = point_at_them(index.read_text())
    copy_files(html)
    index.write_text(page)
    print(f"{index} opens without a network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
