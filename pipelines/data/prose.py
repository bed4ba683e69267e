"""Docstring in, paragraphs of prose out: markup, code, tables and parameter headings are cut away.

Works line by line on the text of ``inspect.cleandoc``. It knows numpydoc, Google, Sphinx and Markdown habits;
what is left must look like sentences, so a construct it does not know is dropped rather than kept half cleaned.
"""

from __future__ import annotations

import inspect
import re

MIN_WORDS = 6
MIN_WORD_SHARE = 0.75

_UNDERLINE = re.compile(r"^\s*([-=~^*#+_\"'`.:])\1{2,}\s*$")
_TABLE = re.compile(r"^\s*(\||\+[-=]|=+ +=)|\S {3,}\S|\t\S+\t")
_DIRECTIVE = re.compile(r"^\s*\.\.( |$)")
_ADMONITION = re.compile(r"^\s*\.\. (note|warning|tip|important|caution|hint|admonition|attention)::\s*(.*)$")
_SPHINX_FIELD = re.compile(r"^\s*:(?:param|parameter|arg|returns?|raises?|keyword|ivar|cvar|var)\b[^:]*:\s*(.*)$")
_OTHER_FIELD = re.compile(r"^\s*[:@]\w+[^:`]*:(?!`)")
_NUMPY_FIELD = re.compile(r"^\s*[\w*`.,\s\[\]'\"]{1,60}\s:\s|^\s*[\w*.`]+( or \w+)?\s*:?\s*$")
_GOOGLE_FIELD = re.compile(r"^\s*[*`\w.]+\s*\((?:[^()]|\([^()]*\))*\)\s*:?\s*(?:--|:|-)?\s*(.*)$")
_MARKDOWN_FIELD = re.compile(r"^\s*[-*]?\s*(?:\*\*|`)+[\w.\[\]]+(?:\*\*|`)+\s*(?:\([^)]*\))?\s*(?:--|:|-)\s+(.*)$")
_SECTION = re.compile(r"^\s*[A-Z][\w ]{2,24}:{1,2}\s*$|^\s*#{1,6}\s")
_NAMED_FIELD = re.compile(r"^\s+\*{0,2}[a-z_]\w*:\s+(\S.*)$")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\(?\w{1,2}[.)])\s+(\S.*)$")
_PROMPT = re.compile(r"^\s*(>>>|In \[\d+\]:|\$ |% )")

_INLINE = (
    (re.compile(r"\s?\[\d+\]_"), ""),  # numpydoc citations
    (re.compile(r":[\w:+-]+:`([^`<]*?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+-]+:`[~!]?(?:[\w.]+\.)?([^`]+)`"), r"\1"),
    (re.compile(r"!?\[([^\]\[]+)\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),
    (re.compile(r"\[?`{1,2}[~!]?([^`]+?)`{1,2}_{0,2}\]?"), r"\1"),
    (re.compile(r"\*\*([^*\s][^*]*)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)"), r"\1"),
    (re.compile(r"\s+"), " "),
)
_WORD = re.compile(r"[(\"'“]*[A-Za-z][A-Za-z'’-]*[)\"'”]*[.,;:!?]*[)\"'”]*")
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffd]|\.\.\.$|>>>|\{\{|\\\w+\{|https?://\S{60}|\boptional\b.*\):?$"
)


def prose_paragraphs(docstring: str) -> list[str]:
    """The paragraphs of prose in a docstring, each on one line, in order."""
    kept = []
    for lines in _blocks(inspect.cleandoc(docstring)):
        text = " ".join(lines)
        for pattern, replacement in _INLINE:
            text = pattern.sub(replacement, text)
        text = text.strip()
        if is_prose(text):
            kept.append(text)
    return kept


def is_prose(text: str) -> bool:
    """Whether a line reads as sentences: enough words, most of them plain, nothing that belongs to code."""
    words = text.split(" ")
    if len(words) < MIN_WORDS or _FORBIDDEN.search(text) or not (text[0].isalnum() or text[0] in "\"'(“"):
        return False
    plain = sum(1 for word in words if _WORD.fullmatch(word))
    return plain >= MIN_WORD_SHARE * len(words)


def normalised(paragraph: str) -> str:
    """What two copies of a paragraph have in common: its letters and digits, in lower case."""
    return "".join(character for character in paragraph.casefold() if character.isalnum())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _blocks(text: str) -> list[list[str]]:
    """Lines grouped into candidate paragraphs, with code, tables, headings and field names taken out."""
    blocks: list[list[str]] = [[]]
    fenced = False
    skip_deeper_than: int | None = None  # inside a literal block or a directive's body
    skip_to_blank = False  # inside a doctest
    hanging = False  # the paragraph began with a bullet or a field: deeper lines continue it
    indent = 0
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith(("```", "~~~")):
            fenced, skip_deeper_than = not fenced, None
            blocks.append([])
            continue
        if not stripped:
            skip_to_blank = False
            blocks.append([])
            continue
        if fenced or skip_to_blank:
            continue
        if skip_deeper_than is not None:
            if _indent(line) > skip_deeper_than:
                continue
            skip_deeper_than = None
        if _PROMPT.match(line):
            skip_to_blank = True
            blocks.append([])
            continue
        if _UNDERLINE.match(line):
            if blocks[-1]:
                blocks[-1].pop()
            blocks.append([])
            continue
        if admonition := _ADMONITION.match(line):
            blocks.append([admonition[2]] if admonition[2] else [])
            indent, hanging = _indent(line), True
            continue
        if _DIRECTIVE.match(line):
            skip_deeper_than = _indent(line)
            blocks.append([])
            continue
        if _TABLE.search(line) or _SECTION.match(line):
            blocks.append([])
            continue
        shifted = _indent(line) != indent and not (hanging and _indent(line) > indent)
        content, starts = _field_text(line, first=shifted or not blocks[-1])
        if starts or (shifted and blocks[-1]):
            blocks.append([])
            hanging = content != stripped
        elif not blocks[-1]:
            hanging = False
        if not blocks[-1] or not hanging:
            indent = _indent(line)
        if content.endswith("::"):
            skip_deeper_than, content = _indent(line), content[:-1]
        if content:
            blocks[-1].append(content)
    return [block for block in blocks if block]


def _field_text(line: str, first: bool) -> tuple[str, bool]:
    """(text of the line without a bullet or a field name, whether it starts a paragraph)."""
    for pattern in (_SPHINX_FIELD, _MARKDOWN_FIELD):
        if match := pattern.match(line):
            return match[1], True
    if _OTHER_FIELD.match(line):
        return "", True
    if match := _BULLET.match(line):
        inner = _MARKDOWN_FIELD.match(match[1])
        return (inner[1] if inner else match[1]), True
    if first or line.startswith(" "):
        if match := _GOOGLE_FIELD.match(line) or _NAMED_FIELD.match(line):
            return match[1], True
        if _NUMPY_FIELD.match(line):
            return "", True
    return line.strip(), False
