//! Just enough of Rust's grammar to look at source files: what is code, what is test code, where functions begin and end.

/// A file of the workspace.
pub(super) struct Source {
    /// Path from the root, with `/`.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// The same lines without comments and without what stands in literals.
    pub(super) code: String,
    /// The code without test modules.
    pub(super) product: String,
}

/// A function with a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// Line of the `fn`, from 1.
    pub(super) line: usize,
    /// Lines from the `fn` to the closing brace.
    pub(super) lines: usize,
}

impl Source {
    /// Reads a file's text.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let code = mask(text);
        let product = without_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    /// Functions of the product, nested ones too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let bytes = self.product.as_bytes();
        let mut found = Vec::new();
        for (at, _) in self.product.match_indices("fn ") {
            let is_word = at == 0 || !is_name(bytes[at - 1]);
            let name: String = self.product[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(open) = body(bytes, at).filter(|_| is_word && !name.is_empty()) else { continue };
            let close = closing(bytes, open);
            let line = 1 + count_lines(&bytes[..at]);
            found.push(Function { name, line, lines: 1 + count_lines(&bytes[at..close]) });
        }
        found
    }

    /// Does this path, such as `actix` or `std::fs`, stand in the given code as whole words?
    pub(super) fn names(code: &str, wanted: &str) -> bool {
        let bytes = code.as_bytes();
        code.match_indices(wanted).any(|(at, _)| {
            let end = at + wanted.len();
            (at == 0 || !is_name(bytes[at - 1])) && (end == bytes.len() || !is_name(bytes[end]))
        })
    }

    /// First segments of all paths that start with `crate::`.
    pub(super) fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in self.product.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let after = &line[at + "crate::".len()..];
                let segment = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
                match after.strip_prefix('{') {
                    Some(group) => found.extend(group.split(',').map(|part| (number + 1, segment(part.trim())))),
                    None => found.push((number + 1, segment(after))),
                }
            }
        }
        found.retain(|(_, segment)| !segment.is_empty());
        found
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The `{` that opens the body of the function at `from`, unless it has none.
fn body(bytes: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' if depth == 0 => return None,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// The `}` that closes the `{` at `open`, or the end.
fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    bytes.len()
}

fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let after = start + "#[cfg(test)]".len();
        let end = match (code[after..].find('{'), code[after..].find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => closing(&bytes, after + open),
            (_, Some(semicolon)) => after + semicolon,
            (_, None) => bytes.len() - 1,
        };
        for byte in &mut bytes[start..=end.min(code.len() - 1)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end.min(code.len() - 1) + 1;
    }
    String::from_utf8(bytes).expect("masked code is ASCII where it was changed")
}

/// Blanks comments and the inside of literals; line breaks stay, every other character of them becomes a space.
pub(super) fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(if chars[at].is_ascii() { chars[at] } else { '_' });
            at += 1;
        }
    }
    out
}

/// The end of the comment or literal that begins here; `at` itself if none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == '/' => chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n),
        '/' if next(1) == '*' => block_comment(chars, at),
        '"' => quoted(chars, at + 1, '"'),
        'b' | 'c' if !in_word && next(1) == '"' => quoted(chars, at + 2, '"'),
        'b' if !in_word && next(1) == '\'' => quoted(chars, at + 2, '\''),
        'r' if !in_word => raw_string(chars, at + 1).unwrap_or(at),
        'b' | 'c' if !in_word && next(1) == 'r' => raw_string(chars, at + 2).unwrap_or(at),
        '\'' if next(1) == '\\' || next(2) == '\'' => quoted(chars, at + 1, '\''),
        _ => at,
    }
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) if depth == 1 => return at + 2,
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn quoted(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let mut at = start + hashes + 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(chars.len())
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "A /* 1 /* 2 */ 3 */ B // 4\nC = \"5\\\"6\"; '7' '\\'' r#\"8 \" 9\"# b\"0\" r#type 'life D";
    let code = mask(text);
    assert!(!code.contains(|c: char| c.is_ascii_digit() || c == '"'), "{code}");
    for kept in ["A ", " B", "C = ", "r#type", "'life D"] {
        assert!(code.contains(kept), "{kept}: {code}");
    }
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn functions_are_measured_without_tests() {
    let text = "pub fn one(x: [u8; 4]) -> u8\nwhere u8: Copy {\n    2\n}\ntrait T { fn none(&self); }\ntype P = fn (u8);\n\
        #[cfg(test)]\nmod tests {\n    fn hidden() {\n    }\n}\nfn two() {}\n";
    let functions = Source::new("a.rs", text).functions();
    let named = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
    assert_eq!(functions, [named("one", 1, 4), named("two", 12, 1)]);
}

#[test]
fn crate_paths_are_found_alone_and_in_groups() {
    let source =
        Source::new("a.rs", "use crate::model::x;\nuse crate::{ports, shells::y};\nlet z = crate::toolkit::w();\n// crate::no\n");
    let found: Vec<(usize, String)> = source.crate_paths();
    let wanted = [(1, "model"), (2, "ports"), (2, "shells"), (3, "toolkit")];
    assert_eq!(found, wanted.map(|(line, name)| (line, name.to_owned())));
}
