//! `pattern`: ECMA-262 regular expressions for a linear-time engine.
//!
//! Owns: the differences between the two dialects. Does not own: matching (regex). What needs backtracking (lookaround, back
//! references) is refused at compile time: no record may make a pattern slow.

use regex::{Regex, RegexBuilder};

/// Whitespace and line ends as ECMA-262 defines `\s`.
const SPACE: &str = r"\t\n\x0B\x0C\r \u{A0}\u{FEFF}\u{2028}\u{2029}\p{Zs}";

/// Compiles, or says what can't be translated.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = Translator { rest: pattern.chars().peekable(), out: String::new() }.run()?;
    RegexBuilder::new(&translated)
        .size_limit(4 << 20)
        .build()
        .map_err(|_| "it is not a regular expression that can be matched in linear time".to_owned())
}

struct Translator<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    out: String,
}

impl Translator<'_> {
    fn run(mut self) -> Result<String, String> {
        while let Some(next) = self.rest.next() {
            match next {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '.' => self.out.push_str(r"[^\n\r\u{2028}\u{2029}]"),
                '(' => self.group()?,
                other => self.out.push(other),
            }
        }
        Ok(self.out)
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        let mut ahead = self.rest.clone();
        if ahead.next() == Some('?') {
            match (ahead.next(), ahead.next()) {
                (Some('='), _) | (Some('!'), _) | (Some('<'), Some('=' | '!')) => {
                    return Err("lookahead and lookbehind need backtracking".to_owned());
                }
                (Some(':' | '<'), _) => {}
                (Some(_) | None, _) => return Err("only `(?:` and `(?<name>` groups are ECMA-262".to_owned()),
            }
        }
        Ok(())
    }

    /// A character class; the regex crate knows set operations and nested classes, ECMA-262 does not.
    fn class(&mut self) -> Result<(), String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        if self.rest.next_if_eq(&']').is_some() {
            // `[]` matches nothing, `[^]` anything.
            self.out.push_str(if negated { r"[\s\S]" } else { r"[^\s\S]" });
            return Ok(());
        }
        self.out.push_str(if negated { "[^" } else { "[" });
        let mut last = None;
        while let Some(next) = self.rest.next() {
            match next {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => self.escape(true)?,
                '[' => self.out.push_str(r"\["),
                '-' if last == Some('-') || last.is_none() || self.rest.peek() == Some(&']') => self.out.push_str(r"\-"),
                '&' | '~' if last == Some(next) => self.out.extend(['\\', next]),
                other => self.out.push(other),
            }
            last = Some(next);
        }
        Err("a character class is not closed".to_owned())
    }

    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(letter) = self.rest.next() else {
            return Err("it ends in a backslash".to_owned());
        };
        match letter {
            'd' => self.set("0-9", false, in_class),
            'D' => self.set("0-9", true, in_class),
            'w' => self.set("A-Za-z0-9_", false, in_class),
            'W' => self.set("A-Za-z0-9_", true, in_class),
            's' => self.set(SPACE, false, in_class),
            'S' => self.set(SPACE, true, in_class),
            'b' if in_class => self.out.push_str(r"\x08"),
            'b' => self.out.push_str(r"(?-u:\b)"),
            't' | 'n' | 'r' | 'f' | 'v' => self.out.extend(['\\', letter]),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => self.out.push_str(r"\x00"),
            'c' => match self.rest.next().filter(char::is_ascii_alphabetic) {
                Some(control) => self.code(u32::from(control) % 32),
                None => return Err("`\\c` takes a letter".to_owned()),
            },
            'x' => {
                let code = self.hex(2)?;
                self.code(code);
            }
            'u' => self.unicode()?,
            'p' | 'P' if self.rest.peek() == Some(&'{') => self.out.extend(['\\', letter]),
            '1'..='9' | 'k' => return Err("back references need backtracking".to_owned()),
            letter if letter.is_ascii_alphanumeric() => return Err("an escape that ECMA-262 does not define".to_owned()),
            other => self.out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
        Ok(())
    }

    fn set(&mut self, members: &str, negated: bool, in_class: bool) {
        if negated {
            self.out.push_str(&format!("[^{members}]"));
        } else if in_class {
            self.out.push_str(members);
        } else {
            self.out.push_str(&format!("[{members}]"));
        }
    }

    fn code(&mut self, code: u32) {
        self.out.push_str(&format!(r"\u{{{code:X}}}"));
    }

    fn hex(&mut self, digits: usize) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..digits {
            match self.rest.next().and_then(|digit| digit.to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return Err("an escape lacks hexadecimal digits".to_owned()),
            }
        }
        Ok(code)
    }

    fn unicode(&mut self) -> Result<(), String> {
        if self.rest.next_if_eq(&'{').is_some() {
            let digits: String = std::iter::from_fn(|| self.rest.next_if(char::is_ascii_hexdigit)).collect();
            let code = u32::from_str_radix(&digits, 16).ok().filter(|_| self.rest.next() == Some('}'));
            self.code(code.ok_or_else(|| "`\\u{` takes hexadecimal digits and `}`".to_owned())?);
            return Ok(());
        }
        let unit = self.hex(4)?;
        if !(0xd800..0xdc00).contains(&unit) {
            self.code(unit);
            return Ok(());
        }
        if self.rest.next() != Some('\\') || self.rest.next() != Some('u') {
            return Err("an escaped surrogate needs its other half".to_owned());
        }
        let low = self.hex(4)?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err("an escaped surrogate needs its other half".to_owned());
        }
        self.code(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: [&str; 24] = [
        "^a",
        "a$",
        "^[a-z]{2,4}$",
        r"^\d+$",
        r"^\D+$",
        r"^\w+$",
        r"^\W$",
        r"^\s$",
        r"^\S+$",
        r"^[\d\-]+$",
        r"^[^\s@]+@[^\s@]+$",
        r"^[\w.+-]+$",
        r"^(foo|bar)$",
        r"^(?:a|b)+$",
        r"^a\/b$",
        r"^\u0041$",
        r"^[\u0041-\u0043]$",
        r"^.$",
        "^[a-]$",
        "^[-a]$",
        "^[[]$",
        r"^\$\{a\}$",
        r"\ba\b",
        "^[a&&b]$",
    ];
    const TEXTS: [&str; 30] = [
        "", "a", "A", "b", "ab", "abc", "abcde", "1", "12", "-", "1-2", "٣", "é", "_", " ", "\u{a0}", "\n", "\u{2028}",
        "\u{feff}", "a@b", "a@@b", "foo", "bar", "foobar", "a/b", "B", "[", "${a}", "x a y", "&",
    ];

    #[test]
    fn translated_patterns_match_what_the_jsonschema_crate_matches() {
        for pattern in PATTERNS {
            let ours = compile(pattern).expect(pattern);
            let crates = jsonschema::options().build(&serde_json::json!({ "pattern": pattern })).expect(pattern);
            for text in TEXTS {
                assert_eq!(ours.is_match(text), crates.is_valid(&serde_json::json!(text)), "{pattern} on {text:?}");
            }
        }
    }

    #[test]
    fn what_needs_backtracking_or_is_no_ecma_is_refused() {
        for pattern in
            ["(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>", "(?i)a", r"\Aa", "(", "[a", r"\u12", "a\\"]
        {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn empty_classes_and_surrogate_pairs_mean_what_they_mean_in_ecma() {
        assert!(!compile("[]").expect("nothing").is_match("a"));
        assert!(compile("^[^]$").expect("anything").is_match("\n"));
        assert!(compile(r"^\ud83d\ude00$").expect("pair").is_match("😀"));
    }
}
