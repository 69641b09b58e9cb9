//! Bytes cut into lines without copying, bounded by the size of a record.
//!
//! Owns: the buffer, line numbers, the bound. Does not own: what a line is (csv, reader), compression (source).

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};

use sluicebox_stream::embedded::RECORD_MAX;

const CHUNK: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line, without its `\n`; a `\r` before it is still there.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Line {
    Text(Bytes),
    /// Longer than a record may be; it was passed over.
    TooLong,
}

/// Cuts lines. A byte order mark at the start belongs to no line.
pub(super) struct Lines {
    input: Box<dyn Read + Send>,
    buffer: BytesMut,
    // Bytes at the start of the buffer that are known to hold no line end.
    scanned: usize,
    number: u64,
    started: bool,
    ended: bool,
    skipping: bool,
}

impl Lines {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input, buffer: BytesMut::new(), scanned: 0, number: 0, started: false, ended: false, skipping: false }
    }

    /// Number of the line given last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Another line can be had without reading.
    pub(super) fn is_ready(&self) -> bool {
        self.ended || memchr::memchr(b'\n', &self.buffer[self.scanned..]).is_some()
    }

    /// What the input begins with: so many lines, or its first chunk, or all of it.
    pub(super) fn peek(&mut self, lines: usize) -> io::Result<&[u8]> {
        self.start()?;
        while !self.ended && self.buffer.len() < CHUNK && memchr::memchr_iter(b'\n', &self.buffer).count() < lines {
            self.fill()?;
        }
        Ok(&self.buffer)
    }

    /// The next line; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        self.start()?;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                let line = self.buffer.split_to(self.scanned + at);
                self.buffer.advance(1);
                return Ok(Some(self.line(line)));
            }
            self.scanned = self.buffer.len();
            // A `\r` may follow the longest record.
            if self.scanned > RECORD_MAX + 1 {
                self.skipping = true;
                self.buffer.clear();
                self.scanned = 0;
            }
            if self.ended {
                if self.buffer.is_empty() && !self.skipping {
                    return Ok(None);
                }
                let line = self.buffer.split();
                return Ok(Some(self.line(line)));
            }
            self.fill()?;
        }
    }

    fn line(&mut self, line: BytesMut) -> Line {
        self.scanned = 0;
        self.number += 1;
        let bare = line.len() - usize::from(line.ends_with(b"\r"));
        if std::mem::take(&mut self.skipping) || bare > RECORD_MAX { Line::TooLong } else { Line::Text(line.freeze()) }
    }

    fn start(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        while self.buffer.len() < BYTE_ORDER_MARK.len() && !self.ended {
            self.fill()?;
        }
        if self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.advance(BYTE_ORDER_MARK.len());
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let len = self.buffer.len();
        self.buffer.resize(len + CHUNK, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => break answer,
            }
        };
        self.buffer.truncate(len + read.as_ref().copied().unwrap_or(0));
        self.ended = read? == 0;
        Ok(())
    }
}

/// Without the `\r` of a Windows line end.
pub(super) fn bare(line: &Bytes) -> Bytes {
    line.slice(..line.len() - usize::from(line.ends_with(b"\r")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Gives bytes in pieces, so that line ends fall anywhere in a read.
    struct Pieces(Vec<u8>, usize);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(self.1).min(buffer.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0.drain(..len);
            Ok(len)
        }
    }

    fn all(data: &[u8], piece: usize) -> Vec<Option<Bytes>> {
        let mut lines = Lines::new(Box::new(Pieces(data.to_vec(), piece)));
        let next = || lines.next().expect("reads");
        std::iter::from_fn(next)
            .map(|line| match line {
                Line::Text(text) => Some(text),
                Line::TooLong => None,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn lines_are_what_lies_between_line_ends_however_the_reads_fall(
            data in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            piece in 1usize..50,
        ) {
            let mut expected: Vec<_> = data.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
            if expected.last().is_some_and(Bytes::is_empty) {
                expected.pop();
            }
            prop_assume!(!data.starts_with(BYTE_ORDER_MARK));
            prop_assert_eq!(all(&data, piece), expected.into_iter().map(Some).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_byte_order_mark_belongs_to_no_line() {
        assert_eq!(all(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", 1), [Some("a".into()), Some(Bytes::from_static(b"\xef\xbb\xbfb"))]);
    }

    #[test]
    fn the_longest_record_fits_and_a_longer_line_costs_itself_only() {
        let mut data = vec![b'x'; RECORD_MAX];
        data.extend_from_slice(b"\r\nshort\n");
        data.extend(std::iter::repeat_n(b'y', RECORD_MAX + 1));
        data.extend_from_slice(b"\nlast\n");
        data.extend(std::iter::repeat_n(b'z', 2 * RECORD_MAX));
        let lines = all(&data, usize::MAX);
        assert_eq!(
            lines.iter().map(|line| line.as_ref().map(Bytes::len)).collect::<Vec<_>>(),
            [Some(RECORD_MAX + 1), Some(5), None, Some(4), None]
        );
    }
}
