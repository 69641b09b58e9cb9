//! The structure pass: is a record one JSON value that we are willing to look at, and where do its parts lie?
//!
//! Owns: RFC 8259 to the letter, the structural limits, duplicate keys, and the tape of positions that later steps walk instead
//! of parsing again. Does not own: what a value means (contract), text without its escapes (structure/text.rs).
//!
//! One pass, no recursion: nesting costs a slot of a small stack, so depth 100,000 is refused and not followed. Choices where RFC
//! 8259 leaves one: a byte order mark and lone surrogate escapes are refused (neither can become text), numbers of any size pass.

mod keys;
pub(crate) mod text;

use keys::Keys;

/// Deepest nesting of arrays and objects that is followed.
pub const MAX_DEPTH: usize = 64;
/// Longest record in bytes: what a Kinesis record can carry.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;
/// Tokens kept allocated between records; what a hostile record needed beyond it is given back.
const KEEP_TOKENS: usize = 64 * 1024;

/// Why a record is not an acceptable JSON value. Holds places and rules, never content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// `empty`, `too_large`, `raw_nul`, `invalid_utf8`, `invalid_json`, `too_deep`, `duplicate_key` or `trailing_data`.
    pub reason: &'static str,
    /// The rule, and the byte offset where it was broken.
    pub message: String,
    /// JSON path, where a member is to blame.
    pub path: Option<String>,
}

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Null,
    True,
    False,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Number,
    /// A string without escapes.
    Plain,
    /// A string with escapes.
    Escaped,
    Object,
    Array,
}

/// A value or a key: 12 bytes, so that the tape of a record of single digits stays below eight times its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    /// Offset of its first byte; strings include their quotes. [`MAX_BYTES`] fits 24 bits, the upper 8 hold the kind.
    start_and_kind: u32,
    /// Offset after its last byte.
    pub(crate) end: u32,
    /// Index of the token after it and all it contains.
    pub(crate) next: u32,
}

impl Token {
    fn new(kind: Kind, start: usize, end: usize, next: usize) -> Self {
        Self { start_and_kind: start as u32 | (kind as u32) << 24, end: end as u32, next: next as u32 }
    }

    pub(crate) fn start(self) -> usize {
        (self.start_and_kind & 0x00ff_ffff) as usize
    }

    pub(crate) fn kind(self) -> Kind {
        const KINDS: [Kind; 9] = [
            Kind::Null,
            Kind::True,
            Kind::False,
            Kind::Integer,
            Kind::Number,
            Kind::Plain,
            Kind::Escaped,
            Kind::Object,
            Kind::Array,
        ];
        KINDS[(self.start_and_kind >> 24) as usize]
    }

    /// Its text as written.
    pub(crate) fn raw(self, text: &str) -> &str {
        text.get(self.start()..self.end as usize).unwrap_or_default()
    }

    /// A string's text between the quotes, escapes as written.
    pub(crate) fn inside(self, text: &str) -> &str {
        text.get(self.start() + 1..(self.end as usize).saturating_sub(1)).unwrap_or_default()
    }
}

/// The scanner and the tape of the record it read last. Reused from record to record.
#[derive(Default)]
pub(crate) struct Structure {
    tokens: Vec<Token>,
    /// Indexes of the open containers' tokens.
    open: Vec<u32>,
    keys: Keys,
}

enum State {
    Value,
    FirstItem,
    FirstKey,
    Key,
    AfterValue,
}

/// The error is boxed because every string and number returns a `Step`: two registers instead of a trip through memory.
type Step<T> = Result<T, Box<Broken>>;

fn broken<T>(reason: &'static str, rule: &str, at: usize) -> Step<T> {
    Err(Box::new(Broken { reason, message: format!("{rule} (byte {at})"), path: None }))
}

fn invalid<T>(rule: &str, at: usize) -> Step<T> {
    broken("invalid_json", rule, at)
}

impl Structure {
    /// Reads one record. On success the tape describes it and the text is returned.
    pub(crate) fn scan<'a>(&mut self, data: &'a [u8]) -> Step<&'a str> {
        self.reset();
        if data.len() > MAX_BYTES {
            let message = format!("a record holds at most {MAX_BYTES} bytes");
            return Err(Box::new(Broken { reason: "too_large", message, path: None }));
        }
        if let Some(at) = memchr::memchr(0, data) {
            return broken("raw_nul", "a raw NUL byte is not allowed anywhere", at);
        }
        let text = match std::str::from_utf8(data) {
            Ok(text) => text,
            Err(error) => return broken("invalid_utf8", "the record is not UTF-8", error.valid_up_to()),
        };
        if text.starts_with('\u{feff}') {
            return invalid("a byte order mark is not allowed", 0);
        }
        if skip_space(data, 0) == data.len() {
            return broken("empty", "the record holds no value", 0);
        }
        self.run(text)?;
        Ok(text)
    }

    /// All tokens, the root first.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    fn reset(&mut self) {
        self.tokens.clear();
        self.tokens.shrink_to(KEEP_TOKENS);
        self.open.clear();
        self.keys.reset();
    }

    fn run(&mut self, text: &str) -> Step<()> {
        let data = text.as_bytes();
        let mut state = State::Value;
        let mut at = 0;
        loop {
            at = skip_space(data, at);
            let byte = data.get(at).copied();
            state = match state {
                State::Value => {
                    let (end, then) = self.value(data, at)?;
                    at = end;
                    then
                }
                State::FirstItem => match byte {
                    Some(b']') => {
                        at = self.close(text, at)?;
                        State::AfterValue
                    }
                    Some(_) | None => State::Value,
                },
                State::FirstKey => match byte {
                    Some(b'}') => {
                        at = self.close(text, at)?;
                        State::AfterValue
                    }
                    Some(_) | None => State::Key,
                },
                State::Key => {
                    at = self.key(data, at)?;
                    State::Value
                }
                State::AfterValue => {
                    let Some(container) = self.open.last() else {
                        return match byte {
                            None => Ok(()),
                            Some(_) => broken("trailing_data", "a record holds one value and nothing after it", at),
                        };
                    };
                    let object = self.tokens[*container as usize].kind() == Kind::Object;
                    match (byte, object) {
                        (Some(b','), true) => {
                            at += 1;
                            State::Key
                        }
                        (Some(b','), false) => {
                            at += 1;
                            State::Value
                        }
                        (Some(b'}'), true) | (Some(b']'), false) => {
                            at = self.close(text, at)?;
                            State::AfterValue
                        }
                        (Some(_) | None, true) => return invalid("after a member comes `,` or `}`", at),
                        (Some(_) | None, false) => return invalid("after an item comes `,` or `]`", at),
                    }
                }
            };
        }
    }

    /// Reads a scalar whole, or enters a container; the offset to go on from and what stands there.
    fn value(&mut self, data: &[u8], at: usize) -> Step<(usize, State)> {
        match data.get(at) {
            Some(b'"') => {
                let (end, escaped) = string_end(data, at)?;
                self.push(if escaped { Kind::Escaped } else { Kind::Plain }, at, end);
                Ok((end, State::AfterValue))
            }
            Some(b'{') => self.enter(Kind::Object, at),
            Some(b'[') => self.enter(Kind::Array, at),
            Some(b'-' | b'0'..=b'9') => {
                let (end, kind) = number_end(data, at)?;
                self.push(kind, at, end);
                Ok((end, State::AfterValue))
            }
            Some(b't') => self.literal(data, at, b"true", Kind::True),
            Some(b'f') => self.literal(data, at, b"false", Kind::False),
            Some(b'n') => self.literal(data, at, b"null", Kind::Null),
            Some(_) => invalid("a value starts with `{`, `[`, `\"`, a digit, `-`, `true`, `false` or `null`", at),
            None => invalid("the record ends where a value is expected", at),
        }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.tokens.len() + 1;
        self.tokens.push(Token::new(kind, start, end, next));
    }

    fn literal(&mut self, data: &[u8], at: usize, word: &[u8], kind: Kind) -> Step<(usize, State)> {
        if data.get(at..at + word.len()) != Some(word) {
            return invalid("a bare word is `true`, `false` or `null`", at);
        }
        self.push(kind, at, at + word.len());
        Ok((at + word.len(), State::AfterValue))
    }

    fn enter(&mut self, kind: Kind, at: usize) -> Step<(usize, State)> {
        if self.open.len() == MAX_DEPTH {
            return broken("too_deep", "arrays and objects nest at most 64 deep", at);
        }
        self.open.push(self.tokens.len() as u32);
        // `end` and `next` follow when it closes.
        self.tokens.push(Token::new(kind, at, at, 0));
        if kind == Kind::Object {
            self.keys.enter();
            Ok((at + 1, State::FirstKey))
        } else {
            Ok((at + 1, State::FirstItem))
        }
    }

    fn key(&mut self, data: &[u8], at: usize) -> Step<usize> {
        if data.get(at) != Some(&b'"') {
            return invalid("a member starts with its name in quotes", at);
        }
        let (end, escaped) = string_end(data, at)?;
        self.push(if escaped { Kind::Escaped } else { Kind::Plain }, at, end);
        self.keys.add(data, self.tokens.len() - 1, at + 1, end - 1, escaped);
        let colon = skip_space(data, end);
        if data.get(colon) != Some(&b':') {
            return invalid("after a member's name comes `:`", colon);
        }
        Ok(colon + 1)
    }

    fn close(&mut self, text: &str, at: usize) -> Step<usize> {
        let Some(index) = self.open.last().copied() else {
            return invalid("nothing is open here", at);
        };
        if self.tokens[index as usize].kind() == Kind::Object
            && let Some(second) = self.keys.leave(text)
        {
            let message = format!("an object names each member once (byte {})", self.tokens[second].start());
            let path = Some(path_of_key(text, &self.tokens, &self.open, second));
            return Err(Box::new(Broken { reason: "duplicate_key", message, path }));
        }
        self.open.pop();
        let next = self.tokens.len() as u32;
        let token = &mut self.tokens[index as usize];
        token.end = at as u32 + 1;
        token.next = next;
        Ok(at + 1)
    }
}

/// The JSON path of a key token inside containers that are still open.
fn path_of_key(text: &str, tokens: &[Token], open: &[u32], key: usize) -> String {
    let mut path = String::from("$");
    for (depth, container) in open.iter().enumerate() {
        let child = open.get(depth + 1).map_or(key + 1, |child| *child as usize);
        let container = *container as usize;
        if tokens[container].kind() == Kind::Object {
            text::push_member(&mut path, &text::unescaped(tokens[child - 1], text));
        } else {
            let mut item = container + 1;
            let mut number = 0;
            while item < child {
                item = tokens[item].next as usize;
                number += 1;
            }
            text::push_item(&mut path, number);
        }
    }
    path
}

#[inline]
fn skip_space(data: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = data.get(at) {
        at += 1;
    }
    at
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Offset of the first quote, backslash or control character, eight bytes at a time.
#[inline]
fn next_special(data: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = data.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        let found =
            (quote.wrapping_sub(ONES) & !quote) | (slash.wrapping_sub(ONES) & !slash) | (word.wrapping_sub(ONES * 0x20) & !word);
        let found = found & HIGH;
        if found != 0 {
            // A borrow can only spoil bytes above a real hit, so the lowest one is right.
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while data.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

/// The offset after the closing quote, and whether there are escapes. `at` is the opening quote.
#[inline]
fn string_end(data: &[u8], at: usize) -> Step<(usize, bool)> {
    let mut end = at + 1;
    let mut escaped = false;
    loop {
        end = next_special(data, end);
        match data.get(end) {
            Some(b'"') => return Ok((end + 1, escaped)),
            Some(b'\\') => {
                end = escape_end(data, end)?;
                escaped = true;
            }
            Some(_) => return invalid("a string holds no raw control character", end),
            None => return invalid("a string is not closed", at),
        }
    }
}

fn escape_end(data: &[u8], at: usize) -> Step<usize> {
    match data.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => {
            let unit = text::hex4(data, at + 2);
            match unit {
                Some(0xd800..=0xdbff) => {
                    let low = if data.get(at + 6..at + 8) == Some(b"\\u") { text::hex4(data, at + 8) } else { None };
                    match low {
                        Some(0xdc00..=0xdfff) => Ok(at + 12),
                        Some(_) | None => invalid("an escaped surrogate needs its other half", at),
                    }
                }
                Some(0xdc00..=0xdfff) => invalid("an escaped surrogate needs its other half", at),
                Some(_) => Ok(at + 6),
                None => invalid("`\\u` takes four hexadecimal digits", at),
            }
        }
        Some(_) | None => invalid("an unknown escape in a string", at),
    }
}

fn digits_end(data: &[u8], mut at: usize) -> usize {
    while data.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// The offset after a number and its kind. `at` is its first byte.
pub(crate) fn number_end(data: &[u8], at: usize) -> Step<(usize, Kind)> {
    let first = if data.get(at) == Some(&b'-') { at + 1 } else { at };
    let mut end = digits_end(data, first);
    if end == first {
        return invalid("a number has digits after its sign", at);
    }
    if end > first + 1 && data[first] == b'0' {
        return invalid("a number has no leading zeros", at);
    }
    let mut kind = Kind::Integer;
    if data.get(end) == Some(&b'.') {
        kind = Kind::Number;
        let fraction = end + 1;
        end = digits_end(data, fraction);
        if end == fraction {
            return invalid("a number has digits after its point", at);
        }
    }
    if let Some(b'e' | b'E') = data.get(end) {
        kind = Kind::Number;
        let sign = usize::from(matches!(data.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        end = digits_end(data, exponent);
        if end == exponent {
            return invalid("a number has digits in its exponent", at);
        }
    }
    Ok((end, kind))
}

#[cfg(test)]
mod tests;
