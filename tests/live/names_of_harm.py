"""Names that mean harm: what stands in a directory of a stranger (RELIABILITY.md §3.4 row 21, §3.7)."""

# May be the name of a file on a disk: what must not happen is that any page, header or terminal takes it for more than a name.
TAME = [
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)",
    "<svg onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)'>",
    "<td><tr><table><h1>x",
    "<!--",
    "]]><title>x",
    "javascript:alert(1)",
    "data:text,<b>x",
    "' onclick='alert(1)' x='",
    '" onmouseover="alert(1)" x="',
    "` autofocus onfocus=`alert(1)",
    '" data-hx-get="evil" data-hx-trigger="load',
    '" hx-get="evil" hx-trigger="load" hx-target="body',
    '<div data-hx-get="evil" data-hx-trigger="load">',
    "{{7*7}}",
    "{% include 'passwd' %}",
    "${7*7}",
    "<%= 7*7 %>",
    "#{7*7}",
    "\u202egpj.exe",
    "\u202da\u202c",
    "\u2066isolate\u2069",
    "\u200fright",
    "\u200bzero",
    "\ufeffmark",
    "\U000e0041tag",
    "\u2028line",
    "a&b?c#d%2e%2e",
    "%2e%2e%2fetc",
    "%00",
    "%0d%0aSet-Cookie: x=1",
    "%c0%ae%c0%ae",
    "...",
    ". .",
    "~",
    "-rf",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "|touch pwned",
    "http:",
    "&lt;b&gt;&#60;",
    "a\u0301\u0301\u0301\u0301\u0301\u0301",
    "x" * 255,
    "_redirects",
    "CON",
]

# Must never become the name of a file: each alone in a directory, so that each is refused for itself.
WILD = [
    "..",
    ".",
    "",
    "../up",
    "../../../../tmp/tidegate-hostile",
    "/etc/tidegate-hostile",
    "a/../../up",
    "a/b",
    "</script><script>alert(1)</script>",
    "</a></td></table><img src=x onerror=alert(1)>",
    "..\\..\\windows",
    "\\\\server\\share",
    "C:\\evil.exe",
    "C:evil.exe",
    "a\0b",
    "a\r\nSet-Cookie: x=1",
    "a\nb",
    "a\tb",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31mred",
    "\x7fdelete",
    "\x85next",
    "y" * 65536,
]

# No text at all: overlong forms, half characters, surrogates. DAG-PB says that a name is UTF-8.
NOT_TEXT = [b"\xc0\xaf", b"\xc0\xae\xc0\xae\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xff\xfe", b"caf\xe9"]

# What no page and no terminal may be given as it is.
INVISIBLE = [chr(c) for c in [*range(0x20), *range(0x7F, 0xA0), 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F),
                              *range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080)]]


def shown(name):
    """How a page and a terminal show it: what has no look of its own, or changes that of others, is written out."""
    return "".join(f"\\u{{{ord(c):x}}}" if c in INVISIBLE else c for c in name)
