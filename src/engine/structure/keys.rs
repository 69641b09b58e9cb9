//! Duplicate keys: the names of every open object, compared when the object closes.
//!
//! Owns: comparison of names without their escapes, in bounded time for hostile objects. Does not own: JSON syntax (structure).

use super::text;

/// Objects of at most this many members compare pairwise; larger ones are sorted.
const FEW: usize = 8;
const KEEP: usize = 16 * 1024;

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    /// Where the name's bytes lie: in the record, or in `unescaped`.
    start: u32,
    end: u32,
    token: u32,
    escaped: bool,
}

/// Names of all open objects, outermost first.
#[derive(Default)]
pub(super) struct Keys {
    entries: Vec<Entry>,
    /// First entry of each open object.
    frames: Vec<u32>,
    /// Names that had escapes, without them.
    unescaped: String,
}

/// Spreads names so that unequal ones rarely meet; equality is always decided on the bytes.
fn hash(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = name.len() as u64;
    let mut rest = name;
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        state = (state ^ u64::from_le_bytes(*chunk)).wrapping_mul(ODD).rotate_left(29);
        rest = tail;
    }
    let last = rest.iter().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
    (state ^ last).wrapping_mul(ODD).rotate_left(29)
}

impl Keys {
    pub(super) fn reset(&mut self) {
        self.entries.clear();
        self.entries.shrink_to(KEEP);
        self.frames.clear();
        self.unescaped.clear();
        self.unescaped.shrink_to(KEEP);
    }

    pub(super) fn enter(&mut self) {
        self.frames.push(self.entries.len() as u32);
    }

    /// A name of the innermost object: `start..end` in the record, between the quotes.
    pub(super) fn add(&mut self, data: &[u8], token: usize, start: usize, end: usize, escaped: bool) {
        let name = data.get(start..end).unwrap_or_default();
        let token = token as u32;
        if escaped {
            let from = self.unescaped.len();
            text::unescape_into(std::str::from_utf8(name).unwrap_or_default(), &mut self.unescaped);
            let name = &self.unescaped.as_bytes()[from..];
            let (start, end) = (from as u32, self.unescaped.len() as u32);
            self.entries.push(Entry { hash: hash(name), start, end, token, escaped });
        } else {
            self.entries.push(Entry { hash: hash(name), start: start as u32, end: end as u32, token, escaped });
        }
    }

    /// Forgets the innermost object; the token of the first key that repeats an earlier one, if any does.
    pub(super) fn leave(&mut self, text: &str) -> Option<usize> {
        let base = self.frames.pop()? as usize;
        let (data, unescaped) = (text.as_bytes(), self.unescaped.as_bytes());
        let name = |entry: &Entry| {
            let source = if entry.escaped { unescaped } else { data };
            source.get(entry.start as usize..entry.end as usize).unwrap_or_default()
        };
        let entries = self.entries.get_mut(base..)?;
        let repeated = if entries.len() <= FEW {
            pairwise(entries, |a, b| a.hash == b.hash && name(a) == name(b))
        } else {
            entries.sort_unstable_by(|a, b| {
                a.hash.cmp(&b.hash).then_with(|| name(a).cmp(name(b))).then_with(|| a.token.cmp(&b.token))
            });
            let same = |pair: &&[Entry]| pair[0].hash == pair[1].hash && name(&pair[0]) == name(&pair[1]);
            entries.windows(2).filter(same).map(|pair| pair[1].token).min()
        };
        self.entries.truncate(base);
        repeated.map(|token| token as usize)
    }
}

fn pairwise(entries: &[Entry], same: impl Fn(&Entry, &Entry) -> bool) -> Option<u32> {
    entries.iter().enumerate().find(|(i, late)| entries[..*i].iter().any(|early| same(early, late))).map(|(_, late)| late.token)
}
